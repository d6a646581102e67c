"""Attention of the vision tower over packed segments (frames or windows), a run of equal segments in one call.

transformers calls an implementation once per segment unless its name holds "flash", which gets the whole row and its
cumulative lengths. A video has tens of equal segments, so this saves most of the calls: 128 to 1 for 32 short videos.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

SEGMENTS = "segments_flash"


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each segment, to all of it.

    Args:
        module: The attention layer (unused).
        query: `[1, H, T, d]`.
        key: `[1, H, T, d]`.
        value: `[1, H, T, d]`.
        attention_mask: Unused.
        cu_seq_lens_q: `[segments + 1]` cumulative lengths that end at T.
        scaling: Factor on the scores.
        dropout: Dropout on the weights.
        **kwargs: What flash attention would be told besides.

    Returns:
        `[1, T, H, d]` and None for the weights.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    runs = [(length, sum(1 for _ in run)) for length, run in itertools.groupby(lengths)]
    sizes = [length * count for length, count in runs]
    attend = partial(F.scaled_dot_product_attention, scale=scaling, dropout_p=dropout)
    outputs = []
    for run, *parts in zip(runs, *(torch.split(part[0], sizes, dim=1) for part in (query, key, value)), strict=True):
        length, count = run
        stacked = [part.unflatten(1, (count, length)).transpose(0, 1) for part in parts]
        outputs.append(attend(*stacked).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


AttentionInterface.register(SEGMENTS, segment_attention)
