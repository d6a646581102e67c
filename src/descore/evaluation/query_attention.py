"""Attention of the query token: how it divides between the video, the prompt, the thought and the query itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from descore.model.reward_model import RewardModel
from descore.model.shared_prefix import SHARED_PREFIX, shared_prefix_attention
from descore.types import Branches

OBSERVED = "observed_shared_prefix"

SOURCES = ("video", "prompt", "thought", "query")
"""What a query token can attend to; "prompt" covers everything before the thought except the video."""

Observe = Callable[[nn.Module, Tensor, Tensor, float], None]


@torch.no_grad()
def query_attention(model: RewardModel, branches: Branches) -> Tensor:
    """Measure how the query tokens of each branch divide their attention between the `SOURCES`.

    Args:
        model: Model to measure.
        branches: Packed batch of B branches on the model's device.

    Returns:
        Attention by layer and source, `[B, num_layers, 4]` float32: the mean over the heads and over the query tokens
        of a branch. The four sources sum to 1.
    """
    branch_of, key_of = _positions(model, branches)
    layers: list[Tensor] = []

    def observe(module: nn.Module, query: Tensor, key: Tensor, scaling: float) -> None:
        keys = key[0].repeat_interleave(query.shape[1] // key.shape[1], dim=0)
        rows = [_shares(query[0], keys, at, *key_of[index], scaling) for index, at in enumerate(branch_of)]
        layers.append(torch.stack(rows))

    with _observed(model, observe):
        model.hidden(branches)
    return torch.stack(layers, dim=1).cpu()


def _positions(model: RewardModel, branches: Branches) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the positions of the queries `[B, Q]`, and for each branch its visible positions and sources `[N]`."""
    ids, queries = branches.input_ids[0], branches.query_index
    is_video = ids == model.base.config.video_token_id
    seen: list[tuple[Tensor, Tensor]] = []
    start = 0
    for prefix, lengths in zip(branches.layout.prefix_lengths, branches.layout.branch_lengths, strict=True):
        shared = torch.arange(start, start + prefix, device=ids.device)
        cursor = start + prefix
        for length in lengths:
            own = torch.arange(cursor, cursor + length, device=ids.device)
            is_query = own >= queries[len(seen), 0]
            sources = torch.cat([torch.where(is_video[shared], 0, 1), torch.where(is_query, 3, 2)])
            seen.append((torch.cat([shared, own]), sources))
            cursor += length
        start = cursor
    return queries, seen


def _shares(query: Tensor, key: Tensor, at: Tensor, positions: Tensor, sources: Tensor, scaling: float) -> Tensor:
    """Sum the attention from the queries at `[Q]` of a row `[H, T, d]` to N positions by their sources: `[4]`."""
    scores = torch.einsum("hqd,hnd->hqn", query[:, at].float(), key[:, positions].float()) * scaling
    weights = scores.masked_fill(positions > at[:, None], -torch.inf).softmax(-1).mean((0, 1))
    return torch.zeros(len(SOURCES), device=weights.device).index_add_(0, sources, weights)


@contextmanager
def _observed(model: RewardModel, observe: Observe) -> Iterator[None]:
    """Context manager: call a function with the queries and keys of every layer of the language model."""

    def attend(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, None]:
        observe(module, query, key, options.get("scaling") or query.shape[-1] ** -0.5)
        return shared_prefix_attention(module, query, key, *rest, **options)

    AttentionInterface.register(OBSERVED, attend)
    AttentionMaskInterface.register(OBSERVED, sdpa_mask)
    text = model.base.config.get_text_config()
    text._attn_implementation = OBSERVED
    try:
        yield
    finally:
        text._attn_implementation = SHARED_PREFIX
