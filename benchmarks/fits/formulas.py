"""Operations and kept bytes of transformers' Qwen3-VL, by formula.

Operations are those of matrix products: two for every number of a weight and token. Attention counts what a causal
mask leaves. Kept bytes are those that a forward pass saves for its backward pass, layer by layer, without what does not
grow with width times tokens: indices, masks of tokens, the head.
`python -m benchmarks.fits.check` compares both with measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from transformers import Qwen3VLConfig

from descore.model.reward_model import LOGIT_BYTES
from descore.types import Prefix


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

    @classmethod
    def of(cls, prefix: Prefix, branches: tuple[int, ...]) -> Video:
        """Lengths of a prefix with these branches."""
        _, rows, columns = prefix.grids[0].tolist()
        return cls(len(prefix.input_ids), len(prefix.patches), rows * columns, branches)

    @property
    def num_tokens(self) -> int:
        """Tokens that the language model reads."""
        return self.prefix + sum(self.branches)

    @property
    def num_visible(self) -> int:
        """Pairs of a token and one that it sees."""
        own = sum(branch * self.prefix + _triangle(branch) for branch in self.branches)
        return _triangle(self.prefix) + own


@dataclass(frozen=True, slots=True)
class Keeping:
    """What decides how many bytes are kept.

    Attributes:
        compute: Bytes of a number in a matrix product: 2 in bfloat16, 4 in float32.
        casts: Whether weights are float32 and autocast narrows them; inputs are then narrowed once for every product.
            A sharded model gathers its weights narrow and has no casts.
        rank: Rank of LoRA on the language model; 0 trains it in full.
        vision_trains: Whether the vision tower and its mergers train.
        checkpointing: Whether a layer keeps only its input and recomputes the rest.
        flash: Whether attention has a kernel that needs no mask for branches, as on a GPU.
    """

    compute: int
    casts: bool
    rank: int
    vision_trains: bool
    checkpointing: bool
    flash: bool = True


def vision(config: Qwen3VLConfig, videos: Sequence[Video]) -> float:
    """Operations of the vision tower and its mergers."""
    tower, num_patches = config.vision_config, sum(video.patches for video in videos)
    width = tower.hidden_size
    blocks = 2 * num_patches * tower.depth * (4 * width**2 + 2 * width * tower.intermediate_size)
    seen = 4 * width * tower.depth * sum(video.patches * video.segment for video in videos)
    return float(blocks + seen + _mergers(config, num_patches) + _patch_embedding(config, num_patches))


def forward(config: Qwen3VLConfig, videos: Sequence[Video], *, rank: int = 0, num_rows: int = 0) -> float:
    """Operations of the language model on a packed row, with LoRA of a rank and the logits of some positions."""
    num_tokens = sum(video.num_tokens for video in videos)
    linear = _linears(config, num_tokens) + _adapters(config, num_tokens, rank)
    return linear + attention(config, videos) + _lm_head(config, num_rows)


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
    """Operations of forward and backward pass, those done twice included.

    Args:
        config: Configuration of the backbone.
        videos: What the language model reads.
        rank: Rank of LoRA on the language model; 0 trains it in full.
        num_rows: Positions whose logits are made.
        vision_trains: Whether the vision tower and its mergers run and train; otherwise their results are given.
        checkpointing: Whether activations of the layers are recomputed in the backward pass.
        logits_twice: Whether logits are recomputed there.
    """
    num_tokens, num_patches = (sum(getattr(video, name) for video in videos) for name in ("num_tokens", "patches"))
    frozen = 2.0 if rank else 3.0  # forward, gradient of the input, and unless frozen that of the weight
    again = float(checkpointing)
    linear, adapters = _linears(config, num_tokens), _adapters(config, num_tokens, rank)
    operations = (frozen + again) * linear + (3 + again) * (adapters + attention(config, videos))
    operations += (frozen + logits_twice) * _lm_head(config, num_rows)
    if vision_trains:
        tower, first = config.vision_config, _patch_embedding(config, num_patches)  # its input has no gradient
        last = 2.0 * num_patches * tower.depth * tower.hidden_size * tower.intermediate_size
        blocks = vision(config, videos) - first - _mergers(config, num_patches)
        operations += 3 * vision(config, videos) - first + again * (blocks - last)
    if checkpointing and not rank:  # recomputing a layer stops before its last product, which nothing needs
        operations -= 2.0 * num_tokens * config.text_config.num_hidden_layers * prod(projections(config)[-1])
    return operations


def attention(config: Qwen3VLConfig, videos: Sequence[Video]) -> float:
    """Operations of the language model's attention."""
    visible = sum(video.num_visible for video in videos)
    return 4.0 * _widths(config)[0] * config.text_config.num_hidden_layers * visible


def projections(config: Qwen3VLConfig) -> list[tuple[int, int]]:
    """Input and output width of the seven linear layers of a decoder layer."""
    width, mlp, (query, key) = config.text_config.hidden_size, config.text_config.intermediate_size, _widths(config)
    return [(width, query), (width, key), (width, key), (query, width), (width, mlp), (width, mlp), (mlp, width)]


def kept(config: Qwen3VLConfig, videos: Sequence[Video], keeping: Keeping, num_rows: int = 0) -> float:
    """All bytes that are kept, with the logits of some positions."""
    tower, text = config.vision_config, config.text_config
    num_patches, num_tokens = sum(video.patches for video in videos), sum(video.num_tokens for video in videos)
    norm = num_tokens * text.hidden_size * (4 + (0 if keeping.rank else keeping.compute))
    total = norm + logits(config, num_rows, keeping)
    if keeping.checkpointing:
        total += text.num_hidden_layers * num_tokens * text.hidden_size * keeping.compute
    else:
        total += text.num_hidden_layers * decoder_layer(config, videos, keeping)
        total += len(tower.deepstack_visual_indexes) * num_tokens * text.hidden_size  # where video is, one byte each
    if keeping.vision_trains:
        block = num_patches * tower.hidden_size * keeping.compute
        total += tower.depth * (block if keeping.checkpointing else vision_block(config, num_patches, keeping))
        patch = tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
        total += num_patches * keeping.compute * (patch + tower.hidden_size * (3 * _ends(config) + 1))
    return float(total)


def decoder_layer(config: Qwen3VLConfig, videos: Sequence[Video], keeping: Keeping) -> float:
    """Bytes that one layer of the language model keeps."""
    text, c, (query, key) = config.text_config, keeping.compute, _widths(config)
    width, mlp, num_heads = (
        text.hidden_size,
        text.intermediate_size,
        text.num_attention_heads + text.num_key_value_heads,
    )
    # Norms work in float32 and keep their input so; one that trains keeps what it multiplies as well.
    norms = (4 + (0 if keeping.rank else c)) * (2 * width + query + key) + 4 * (2 + num_heads)
    inputs = c * ((5 if keeping.casts else 2) * width + query + mlp)
    adapted = c * keeping.rank * len(projections(config))
    num_tokens = sum(video.num_tokens for video in videos)
    attended = sum(_attended(config, video, keeping) for video in videos)
    return num_tokens * (norms + inputs + adapted + 3 * c * mlp) + attended


def vision_block(config: Qwen3VLConfig, num_patches: int, keeping: Keeping) -> float:
    """Bytes that one layer of the vision tower keeps."""
    tower, c = config.vision_config, keeping.compute
    # Two norms and what they give; queries, keys and what they were cut from; what attention gives, twice.
    per_patch = c * (11 * tower.hidden_size + 2 * tower.intermediate_size) + 4 * (tower.num_heads + 4)
    wide_norms = 4 if keeping.flash and c == 2 else 0  # on a GPU, autocast takes the two norms to float32
    return num_patches * (per_patch + wide_norms * tower.hidden_size)


def logits(config: Qwen3VLConfig, num_rows: int, keeping: Keeping) -> float:
    """Bytes kept for the log-probabilities of some positions: logits, or if they are many the states they come from."""
    text = config.text_config
    size = 4 * num_rows * text.vocab_size
    return size if size <= LOGIT_BYTES else num_rows * text.hidden_size * keeping.compute


def _attended(config: Qwen3VLConfig, video: Video, keeping: Keeping) -> float:
    """Bytes that the attention of a layer keeps of one video."""
    c, heads, (query, key) = keeping.compute, config.text_config.num_attention_heads, _widths(config)
    row = video.num_tokens * c * (query + 2 * key)
    if len(video.branches) <= 1:
        return row + video.num_tokens * (c * query + 4 * heads)
    number, longest = len(video.branches), max(video.branches)
    seen = number * (video.prefix + longest) * 2 * c * key
    branches = number * longest * (2 * c * query + 4 * heads)
    mask = 0 if keeping.flash else c * longest * (video.prefix + longest)
    return row + video.prefix * (c * query + 4 * heads) + seen + branches + mask


def _linears(config: Qwen3VLConfig, num_tokens: int) -> float:
    layers = config.text_config.num_hidden_layers
    return 2.0 * num_tokens * layers * sum(map(prod, projections(config)))


def _adapters(config: Qwen3VLConfig, num_tokens: int, rank: int) -> float:
    return 2.0 * num_tokens * rank * config.text_config.num_hidden_layers * sum(map(sum, projections(config)))


def _lm_head(config: Qwen3VLConfig, num_rows: int) -> float:
    return 2.0 * num_rows * config.text_config.hidden_size * config.text_config.vocab_size


def _mergers(config: Qwen3VLConfig, num_patches: int) -> float:
    wide = 4 * config.vision_config.hidden_size
    return 2.0 * _ends(config) * (num_patches // 4) * wide * (wide + config.vision_config.out_hidden_size)


def _patch_embedding(config: Qwen3VLConfig, num_patches: int) -> float:
    tower = config.vision_config
    return 2.0 * num_patches * tower.in_channels * tower.temporal_patch_size * tower.patch_size**2 * tower.hidden_size


def _ends(config: Qwen3VLConfig) -> int:
    """Mergers of the vision tower: one at its end, and one at each layer that the language model sees besides."""
    return 1 + len(config.vision_config.deepstack_visual_indexes)


def _widths(config: Qwen3VLConfig) -> tuple[int, int]:
    """Width of all query heads, and of all key heads."""
    text = config.text_config
    return text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim


def _triangle(length: int) -> int:
    return length * (length + 1) // 2
