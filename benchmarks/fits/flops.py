"""Operations of matrix products in a Qwen3-VL, by formula: a product of a weight with a token is two for every number.

`tests/unit/benchmarks/test_fits.py` holds them against torch's `FlopCounterMode`. Attention counts what a causal mask
leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import Qwen3VLConfig


@dataclass(frozen=True, slots=True)
class Video:
    """Lengths of one video in a packed row.

    Attributes:
        prefix: Tokens before the thoughts.
        patches: Patches that the vision tower reads; a video token is four of them.
        segment: Patches that see each other, those of a frame.
        branches: Tokens of each branch, the query token included.
    """

    prefix: int
    patches: int
    segment: int
    branches: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that the language model reads."""
        return self.prefix + sum(self.branches)

    @property
    def num_visible(self) -> int:
        """Pairs of a token and one that it sees."""
        own = sum(branch * self.prefix + _triangle(branch) for branch in self.branches)
        return _triangle(self.prefix) + own


def body(config: Qwen3VLConfig, num_tokens: int) -> float:
    """Return operations of the language model's linear layers, without lm_head."""
    return 2.0 * num_tokens * sum(inner * outer for inner, outer in projections(config)) * _text(config).layers


def adapters(config: Qwen3VLConfig, num_tokens: int, rank: int) -> float:
    """Return operations of LoRA on all of them."""
    return 2.0 * num_tokens * rank * sum(inner + outer for inner, outer in projections(config)) * _text(config).layers


def attention(config: Qwen3VLConfig, videos: Sequence[Video]) -> float:
    """Return operations of the language model's attention."""
    text = _text(config)
    return 4.0 * text.query * text.layers * sum(video.num_visible for video in videos)


def lm_head(config: Qwen3VLConfig, num_rows: int) -> float:
    """Return operations of the logits of some positions."""
    return 2.0 * num_rows * _text(config).width * config.text_config.vocab_size


def vision(config: Qwen3VLConfig, videos: Sequence[Video]) -> float:
    """Return operations of the vision tower and its mergers."""
    tower = config.vision_config
    width, wide, num_patches = tower.hidden_size, 4 * tower.hidden_size, sum(video.patches for video in videos)
    blocks = 2 * num_patches * tower.depth * (4 * width**2 + 2 * width * tower.intermediate_size)
    seen = 4 * width * tower.depth * sum(video.patches * video.segment for video in videos)
    merged = (1 + len(tower.deepstack_visual_indexes)) * 2 * (num_patches // 4) * wide * (wide + tower.out_hidden_size)
    return float(blocks + seen + merged + patch_embedding(config, videos))


def patch_embedding(config: Qwen3VLConfig, videos: Sequence[Video]) -> float:
    """Return operations of the vision tower's first layer, which has no gradient for its input."""
    tower = config.vision_config
    patch = tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
    return 2.0 * sum(video.patches for video in videos) * patch * tower.hidden_size


def forward(config: Qwen3VLConfig, videos: Sequence[Video], *, rank: int = 0, num_rows: int = 0) -> float:
    """Return operations of the language model on a packed row, its attention included, and of some logits."""
    num_tokens = sum(video.num_tokens for video in videos)
    linear = body(config, num_tokens) + adapters(config, num_tokens, rank)
    return linear + attention(config, videos) + lm_head(config, num_rows)


def update(
    config: Qwen3VLConfig,
    videos: Sequence[Video],
    *,
    rank: int = 0,
    num_rows: int = 0,
    vision_trains: bool = False,
    checkpointing: bool = False,
    logits_twice: bool = False,
) -> float:
    """Return operations of forward and backward pass, what is done twice included.

    Args:
        config: The backbone.
        videos: What is read.
        rank: Of LoRA on the language model; 0 trains it in full.
        num_rows: Positions whose logits are made.
        vision_trains: Whether the tower and its mergers train and run; otherwise what they saw is at hand.
        checkpointing: Whether activations of the layers are made again in the backward pass.
        logits_twice: Whether logits are made again there.
    """
    num_tokens = sum(video.num_tokens for video in videos)
    frozen = 2.0 if rank else 3.0  # forward, gradient of the input, and unless frozen that of the weight
    again = float(checkpointing)
    operations = frozen * body(config, num_tokens) + 3 * adapters(config, num_tokens, rank)
    operations += again * (body(config, num_tokens) + adapters(config, num_tokens, rank))
    operations += (3 + again) * attention(config, videos) + (frozen + logits_twice) * lm_head(config, num_rows)
    if vision_trains:
        first, mergers = patch_embedding(config, videos), _mergers(config, videos)
        operations += 3 * vision(config, videos) - first
        operations += again * (vision(config, videos) - first - mergers - _last_of_blocks(config, videos))
    if checkpointing and not rank:  # making a layer again stops before its last product, which nothing needs
        inner, outer = projections(config)[-1]
        operations -= 2.0 * num_tokens * inner * outer * _text(config).layers
    return operations


def projections(config: Qwen3VLConfig) -> list[tuple[int, int]]:
    """Return input and output width of the seven linear layers of a decoder layer."""
    text = _text(config)
    return [
        (text.width, text.query),
        (text.width, text.key),
        (text.width, text.key),
        (text.query, text.width),
        (text.width, text.mlp),
        (text.width, text.mlp),
        (text.mlp, text.width),
    ]


@dataclass(frozen=True, slots=True)
class _Text:
    width: int
    query: int
    key: int
    mlp: int
    layers: int


def _text(config: Qwen3VLConfig) -> _Text:
    text = config.text_config
    return _Text(
        text.hidden_size,
        text.num_attention_heads * text.head_dim,
        text.num_key_value_heads * text.head_dim,
        text.intermediate_size,
        text.num_hidden_layers,
    )


def _mergers(config: Qwen3VLConfig, videos: Sequence[Video]) -> float:
    tower = config.vision_config
    wide, num_tokens = 4 * tower.hidden_size, sum(video.patches // 4 for video in videos)
    return 2.0 * (1 + len(tower.deepstack_visual_indexes)) * num_tokens * wide * (wide + tower.out_hidden_size)


def _last_of_blocks(config: Qwen3VLConfig, videos: Sequence[Video]) -> float:
    """Operations of the last product in every layer of the vision tower."""
    tower = config.vision_config
    return 2.0 * sum(video.patches for video in videos) * tower.depth * tower.hidden_size * tower.intermediate_size


def _triangle(length: int) -> int:
    return length * (length + 1) // 2
