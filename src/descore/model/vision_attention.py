"""Attention of the vision tower over packed segments (frames or windows), equal segments in one call.

transformers calls an attention implementation once per segment, unless its name contains "flash": then it passes the
whole row with cumulative lengths. A video has tens of equal segments, so batching each run of them saves most calls:
one call instead of 128 for 32 short videos.
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
    """Attend within each segment, without a causal mask.

    Args:
        module: Attention layer (unused).
        query: Queries, `[1, H, T, d]`.
        key: Keys, `[1, H, T, d]`.
        value: Values, `[1, H, T, d]`.
        attention_mask: Attention mask (unused).
        cu_seq_lens_q: Cumulative lengths of the segments, `[num_segments + 1]`, from 0 to T.
        scaling: Factor on the attention scores; `d ** -0.5` if not given.
        dropout: Dropout on the attention weights.
        **kwargs: Further arguments of flash attention (unused).

    Returns:
        Outputs `[1, T, H, d]`, and None in place of the weights.

    >>> row, ends = torch.rand(1, 2, 6, 8), torch.tensor([0, 2, 4, 6])
    >>> output, _ = segment_attention(nn.Identity(), row, row, row, None, cu_seq_lens_q=ends)
    >>> alone, _ = segment_attention(nn.Identity(), *[row[:, :, 2:4]] * 3, None, cu_seq_lens_q=ends[:2])
    >>> torch.allclose(output[:, 2:4], alone, atol=1e-6)
    True
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
