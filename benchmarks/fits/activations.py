"""Bytes that a forward pass keeps for its backward pass, by formula, layer by layer of transformers' Qwen3-VL.

`tests/unit/benchmarks/test_fits.py` holds them against what autograd saves. What is not a multiple of a layer's width
times the number of tokens is left out: indices, masks of tokens, the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import Qwen3VLConfig

from benchmarks.fits.flops import Video, projections
from descore.model.reward_model import LOGIT_BYTES


@dataclass(frozen=True, slots=True)
class Keeping:
    """What decides how much is kept.

    Attributes:
        compute: Bytes of a number in a matrix product: 2 in bfloat16, 4 in float32.
        casts: Whether weights are float32 and autocast narrows them: inputs are then narrowed once for every product.
            A sharded model gathers its weights narrow, and has no casts.
        rank: Of LoRA on the language model; 0 trains it in full.
        vision_trains: Whether the tower and its mergers train.
        checkpointing: Whether a layer keeps its input only, and makes the rest again.
        flash: Whether attention has a kernel that needs no mask for branches, as on a GPU.
    """

    compute: int
    casts: bool
    rank: int
    vision_trains: bool
    checkpointing: bool
    flash: bool = True


def kept(config: Qwen3VLConfig, videos: Sequence[Video], keeping: Keeping, num_rows: int = 0) -> float:
    """Return all bytes that are kept, `num_rows` positions with logits among them."""
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
        total += mergers(config, num_patches, keeping)
    return float(total)


def decoder_layer(config: Qwen3VLConfig, videos: Sequence[Video], keeping: Keeping) -> float:
    """Return bytes that one layer of the language model keeps."""
    text, c = config.text_config, keeping.compute
    width, mlp, heads, key_heads = text.hidden_size, text.intermediate_size, *_heads(config)
    query, key = heads * text.head_dim, key_heads * text.head_dim
    # Norms work in float32 and keep their input so; one that trains keeps what it multiplies as well.
    norms = (4 + (0 if keeping.rank else c)) * (2 * width + query + key) + 4 * (2 + heads + key_heads)
    inputs = c * ((5 if keeping.casts else 2) * width + query + mlp)
    adapted = c * keeping.rank * len(projections(config))
    gated = 3 * c * mlp
    num_tokens = sum(video.num_tokens for video in videos)
    attended = sum(_attention(config, video, keeping) for video in videos)
    return num_tokens * (norms + inputs + adapted + gated) + attended


def vision_block(config: Qwen3VLConfig, num_patches: int, keeping: Keeping) -> float:
    """Return bytes that one layer of the vision tower keeps."""
    tower, c = config.vision_config, keeping.compute
    # Two norms and what they give; queries, keys and what they were cut from; what attention gives, twice.
    per_patch = c * (11 * tower.hidden_size + 2 * tower.intermediate_size) + 4 * (tower.num_heads + 4)
    return num_patches * (per_patch + (_wide_norms(keeping) * tower.hidden_size))


def mergers(config: Qwen3VLConfig, num_patches: int, keeping: Keeping) -> float:
    """Return bytes that the ends of the vision tower keep: its patches, and the mergers of all that it gives."""
    tower, c = config.vision_config, keeping.compute
    patch = tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
    ends = 1 + len(tower.deepstack_visual_indexes)
    return num_patches * c * (patch + tower.hidden_size * (3 * ends + 1))


def logits(config: Qwen3VLConfig, num_rows: int, keeping: Keeping) -> float:
    """Return bytes kept for the log-probabilities of some positions: logits, or if they are many what they are of."""
    text = config.text_config
    size = 4 * num_rows * text.vocab_size
    return size if size <= LOGIT_BYTES else num_rows * text.hidden_size * keeping.compute


def _attention(config: Qwen3VLConfig, video: Video, keeping: Keeping) -> float:
    """Bytes that the attention of a layer keeps of one video."""
    text, c = config.text_config, keeping.compute
    heads, key_heads = _heads(config)
    query, key = heads * text.head_dim, key_heads * text.head_dim
    row = video.num_tokens * c * (query + 2 * key)
    if len(video.branches) <= 1:
        return row + video.num_tokens * (c * query + 4 * heads)
    number, longest = len(video.branches), max(video.branches)
    seen = number * (video.prefix + longest) * 2 * c * key
    branches = number * longest * (2 * c * query + 4 * heads)
    mask = 0 if keeping.flash else c * longest * (video.prefix + longest)
    return row + video.prefix * (c * query + 4 * heads) + seen + branches + mask


def _heads(config: Qwen3VLConfig) -> tuple[int, int]:
    return config.text_config.num_attention_heads, config.text_config.num_key_value_heads


def _wide_norms(keeping: Keeping) -> int:
    """Bytes a number that the two norms of a vision layer keep more: on a GPU, autocast takes them to float32."""
    return 4 if keeping.flash and keeping.compute == 2 else 0
