"""Attention of one prefix and many branches, over a packed row without padding.

`[prefix_1 | its branches | prefix_2 | its branches | ...]`: a prefix is causal; a branch sees its prefix and itself,
never its siblings nor another video. Registered with transformers under the name `SHARED_PREFIX`, so no model code is
copied and no mask over the whole row is ever built. Without a layout it is transformers' own SDPA.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from descore.model.thought_cache import ThoughtCache
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
        options = {"scaling": scaling, "dropout": dropout, **kwargs}
        return cast("tuple[Tensor, None]", sdpa_attention_forward(module, query, key, value, attention_mask, **options))
    if dropout:
        raise ValueError(
            f"attention dropout is {dropout}; expected 0, since branches share a prefix: set attention_dropout to 0 "
            "in the backbone's config"
        )
    # Autocast leaves queries and keys that were normalised in float32, and a causal bias takes one dtype only.
    query, key = query.to(value.dtype), key.to(value.dtype)
    lengths = list(zip(layout.prefix_lengths, layout.branch_lengths, strict=True))
    sizes = [prefix + sum(branches) for prefix, branches in lengths]
    # Split, not slices: the gradient of a slice is as long as the whole row, once for every video.
    videos = zip(*(torch.split(part, sizes, dim=2) for part in (query, key, value)), strict=True)
    outputs = [_attend_video(video, *length, scaling) for video, length in zip(videos, lengths, strict=True)]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend_video(parts: tuple[Tensor, ...], prefix: int, branches: tuple[int, ...], scaling: float | None) -> Tensor:
    """Query, key and value of one video, each [1, H, T, d] -> [1, H, T, d]."""
    query, key, value = parts
    attend = partial(F.scaled_dot_product_attention, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    if len(branches) <= 1:
        return attend(query, key, value, is_causal=True)
    sizes = [prefix, sum(branches)]
    (query, own_query), (key, own_key), (value, own_value) = (torch.split(part, sizes, dim=2) for part in parts)
    trunk = attend(query, key, value, is_causal=True)
    queries = _stack(own_query, branches)
    keys, values = (
        torch.cat([shared.expand(len(branches), -1, -1, -1), _stack(own, branches)], dim=2)
        for shared, own in ((key, own_key), (value, own_value))
    )
    # Branches are padded at the end, where a causal mask hides the padding from every real token.
    own = attend(queries, keys, values, attn_mask=causal_lower_right(queries.shape[2], keys.shape[2]))
    return torch.cat([trunk, *(own[i : i + 1, :, :length] for i, length in enumerate(branches))], dim=2)


def _stack(packed: Tensor, branches: tuple[int, ...]) -> Tensor:
    """[1, H, sum(R), d] -> [n, H, max(R), d]."""
    rows = torch.split(packed[0].transpose(0, 1), list(branches))
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True).transpose(1, 2)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
