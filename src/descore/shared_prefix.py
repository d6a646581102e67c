"""Attention of one prefix and many branches, over a packed row without padding.

`[prefix_1 | its branches | prefix_2 | its branches | ...]`: a prefix is causal; a branch sees its prefix and itself, never
its siblings nor another video. Registered with transformers under the name `SHARED_PREFIX`, so no model code is copied and
no mask over the whole row is ever built. Without a layout it is transformers' own SDPA.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from descore.cache import ThoughtCache
from descore.types import Layout

SHARED_PREFIX = "shared_prefix"


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    thought_cache: ThoughtCache | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over a packed row.

    Args:
        module: The attention layer (unused with a layout).
        query: `[1, H, T, d]`.
        key: `[1, H_kv, T, d]`.
        value: `[1, H_kv, T, d]`.
        attention_mask: Used only without a layout.
        layout: Lengths of the prefixes and branches that make up T.
        thought_cache: When one token of every thought is fed: the cache that holds the prefixes.
        scaling: Factor on the scores.
        dropout: Must be 0 with a layout: a shared prefix cannot be dropped differently for each branch.
        **kwargs: Passed on to SDPA when there is no layout.

    Returns:
        `[1, T, H, d]` and None for the weights.
    """
    if thought_cache is not None:
        layer = cast("int", module.layer_idx)
        return thought_cache.attend(query, key, value, layer, scaling or query.shape[-1] ** -0.5), None
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if dropout:
        raise ValueError(f"attention dropout is {dropout}; a shared prefix needs 0 (set attention_dropout to 0 in the backbone's config)")
    outputs, start = [], 0
    for prefix, branches in zip(layout.prefix_lengths, layout.branch_lengths, strict=True):
        end = start + prefix + sum(branches)
        video = (query[:, :, start:end], key[:, :, start:end], value[:, :, start:end])
        outputs.append(_attend_video(*video, prefix, branches, scaling))
        start = end
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend_video(
    query: Tensor, key: Tensor, value: Tensor, prefix: int, branches: tuple[int, ...], scaling: float | None
) -> Tensor:
    if len(branches) <= 1:
        return _sdpa(query, key, value, scaling, is_causal=True)
    trunk = _sdpa(*(part[:, :, :prefix] for part in (query, key, value)), scaling, is_causal=True)
    queries, keys, values = (_stack(part[:, :, prefix:], branches) for part in (query, key, value))
    keys, values = (
        torch.cat([part[:, :, :prefix].expand(len(branches), -1, -1, -1), own], dim=2)
        for part, own in ((key, keys), (value, values))
    )
    # Branches are padded at the end, where a causal mask hides the padding from every real token.
    mask = causal_lower_right(queries.shape[2], keys.shape[2])
    own = _sdpa(queries, keys, values, scaling, attn_mask=mask)
    return torch.cat([trunk, *(own[i : i + 1, :, :length] for i, length in enumerate(branches))], dim=2)


def _stack(packed: Tensor, branches: tuple[int, ...]) -> Tensor:
    """[1, H, sum(R), d] -> [n, H, max(R), d]."""
    rows = packed[0].transpose(0, 1).split(list(branches))
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True).transpose(1, 2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, **kwargs: Any) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=grouped, **kwargs)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
