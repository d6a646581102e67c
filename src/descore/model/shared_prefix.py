"""Shared-prefix attention: one prefix and many branches in a packed row without padding.

The row is `[prefix_1 | its branches | prefix_2 | its branches | ...]`. Attention within a prefix is causal. A branch
attends to its prefix and to its own earlier tokens, never to its siblings or to another video. transformers finds the
function under the name `SHARED_PREFIX`, so no model code is copied, and no mask over the whole row is built.
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
from descore.types import Layout, ModelError

SHARED_PREFIX = "shared_prefix"

UNKNOWN = ("sliding_window", "s_aux", "softcap", "position_bias", "head_mask")
"""What layers of other models give to their attention, and what changes its result."""


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
    """Attend over a packed row, or from one new token per thought over a thought cache.

    Without a layout and without a thought cache this is transformers' own SDPA.

    Args:
        module: Attention layer; with a thought cache, its index in the model is read.
        query: Queries, `[1, H, T, d]` with a layout, `[V * n, H, 1, d]` with a thought cache.
        key: Keys, `[1, H_kv, T, d]`, or as `ThoughtCache.update` returned them.
        value: Values, shaped like the keys.
        attention_mask: Mask for SDPA; unused with a layout or a thought cache.
        layout: Lengths of the prefixes and branches that make up T.
        thought_cache: Cache with the prefixes and the thoughts so far, in a decoding step.
        scaling: Factor on the attention scores; `d ** -0.5` if not given.
        dropout: Attention dropout; must be 0 with a layout, since branches share the states of their prefix.
        **kwargs: Further arguments of SDPA; with a layout or a thought cache, none of `UNKNOWN` may be given.

    Returns:
        Outputs `[1, T, H, d]` (`[V * n, 1, H, d]` with a thought cache), and None in place of the weights.

    Raises:
        ValueError: If there is dropout with a layout.
        ModelError: If the layer asks for what branches are not computed with, such as a sliding window.

    Two branches of one token share a prefix of two; changing the first branch leaves the second as it was:

    >>> layout, row = Layout(prefix_lengths=(2,), branch_lengths=((1, 1),)), torch.rand(1, 1, 4, 8)
    >>> before, _ = shared_prefix_attention(nn.Identity(), row, row, row, None, layout=layout)
    >>> row[:, :, 2] = 0.0
    >>> after, _ = shared_prefix_attention(nn.Identity(), row, row, row, None, layout=layout)
    >>> before.shape, torch.equal(before[:, 3], after[:, 3])
    (torch.Size([1, 4, 1, 8]), True)
    """
    if (layout or thought_cache) and (asked := [name for name in UNKNOWN if kwargs.get(name) is not None]):
        raise ModelError(
            f"{type(module).__name__} asks for {', '.join(asked)}, which branches of one prefix are not computed with; "
            "expected full attention"
        )
    if thought_cache is not None:
        layer = cast("int", module.layer_idx)
        return thought_cache.attend(query, key, value, layer, scaling or query.shape[-1] ** -0.5), None
    if layout is None:
        options = {"scaling": scaling, "dropout": dropout, **kwargs}
        return cast("tuple[Tensor, None]", sdpa_attention_forward(module, query, key, value, attention_mask, **options))
    if dropout:
        raise ValueError(
            f"attention dropout is {dropout}; expected 0, since branches share a prefix; set attention_dropout to 0 in "
            "the backbone's config.json"
        )
    # Under autocast, query and key leave their norm in float32, and a causal bias needs one dtype for all three.
    query, key = query.to(value.dtype), key.to(value.dtype)
    sizes = [prefix + sum(branches) for prefix, branches in layout.videos]
    # Split instead of slicing: the gradient of each slice would be as long as the whole row.
    videos = zip(*(torch.split(part, sizes, dim=2) for part in (query, key, value)), strict=True)
    outputs = [_attend_video(video, *length, scaling) for video, length in zip(videos, layout.videos, strict=True)]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend_video(parts: tuple[Tensor, ...], prefix: int, branches: tuple[int, ...], scaling: float | None) -> Tensor:
    """Attend within one video: query, key and value, each [1, H, T, d] -> [1, H, T, d]."""
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
    """Stack branches into a padded batch: [1, H, sum(R), d] -> [n, H, max(R), d]."""
    rows = torch.split(packed[0].transpose(0, 1), list(branches))
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True).transpose(1, 2)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
