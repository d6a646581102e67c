"""Attention of the query token: how it divides between the video, the prompt, the thought and the query itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class QueryAttention:
    """What the query tokens of one branch attend to: the mean over the heads and over the query tokens.

    Attributes:
        shares: Attention by layer and source, in the order of `SOURCES`; the four sources sum to 1.
        video: Attention to each video token, the mean over layers: T temporal patches of h x w tokens.
    """

    shares: Tensor  # [num_layers, 4] float32
    video: Tensor  # [T, h, w] float32


@torch.no_grad()
def query_attention(model: RewardModel, branches: Branches) -> list[QueryAttention]:
    """Measure what the query tokens of each branch attend to.

    Args:
        model: Model to measure.
        branches: Packed batch of B branches on the model's device.

    Returns:
        The attention of each branch, on the CPU.
    """
    branch_of, key_of = _positions(model, branches)
    layers: list[list[Tensor]] = []

    def observe(module: nn.Module, query: Tensor, key: Tensor, scaling: float) -> None:
        keys = key[0].repeat_interleave(query.shape[1] // key.shape[1], dim=0)
        layers.append([_weights(query[0], keys, at, key_of[index][0], scaling) for index, at in enumerate(branch_of)])

    with _observed(model, observe):
        model.hidden(branches)
    shapes = [model.processor.family.token_shape(grid) for grid in branches.grids]
    owners = [video for video, own in enumerate(branches.layout.branch_lengths) for _ in own]
    return [
        _divide(torch.stack([layer[index] for layer in layers]).cpu(), key_of[index][1].cpu(), shapes[owner])
        for index, owner in enumerate(owners)
    ]


def _divide(weights: Tensor, sources: Tensor, shape: tuple[int, int, int]) -> QueryAttention:
    """Divide the attention to N positions, `[num_layers, N]`, by their sources `[N]`."""
    shares = torch.zeros(len(weights), len(SOURCES)).index_add_(1, sources, weights)
    return QueryAttention(shares, weights[:, sources == 0].mean(0).view(shape))


def _positions(model: RewardModel, branches: Branches) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the positions of the queries `[B, Q]`, and for each branch its visible positions and sources `[N]`."""
    ids, queries = branches.input_ids[0], branches.query_index
    is_video = ids == model.processor.family.placeholder_id
    seen: list[tuple[Tensor, Tensor]] = []
    start = 0
    for prefix, lengths in zip(branches.layout.prefix_lengths, branches.layout.branch_lengths, strict=True):
        shared = torch.arange(start, start + prefix, device=ids.device)
        cursor = start + prefix
        for length in lengths:
            own = torch.arange(cursor, cursor + length, device=ids.device)
            positions = torch.cat([shared, own])
            sources = torch.cat([torch.where(is_video[shared], 0, 1), torch.full_like(own, 2)])
            seen.append((positions, sources.masked_fill(torch.isin(positions, queries[len(seen)]), 3)))
            cursor += length
        start = cursor
    return queries, seen


def _weights(query: Tensor, key: Tensor, at: Tensor, positions: Tensor, scaling: float) -> Tensor:
    """Return the attention from the queries at `[Q]` of a row `[H, T, d]` to N positions: `[N]`."""
    scores = torch.einsum("hqd,hnd->hqn", query[:, at].float(), key[:, positions].float()) * scaling
    return scores.masked_fill(positions > at[:, None], -torch.inf).softmax(-1).mean((0, 1))


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
