"""Comparing: both videos of a pair in one context, in both orders, with thoughts or without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from descore.inputs.settings import RewardSource
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.pairwise.comparison import Comparison, Order, compare_orders
from descore.pairwise.reading import read_choices
from descore.thinking.readout import Readout
from descore.thinking.think import see_contexts, think
from descore.types import Prefix, Thought


@torch.no_grad()
def compare_together(
    model: RewardModel,
    pairs: Sequence[tuple[Prefix, Prefix]],
    sampling: Sampling | None,
    source: RewardSource,
    *,
    names: Sequence[str],
) -> list[Comparison]:
    """Compare the videos of pairs in one batch; the vision tower runs once for each video.

    Args:
        model: Model that compares two videos.
        pairs: Prefixes of each pair, with A first and with B first.
        sampling: Sampling options of the thoughts; None compares without thoughts.
        source: "choice" or "said_choice".
        names: Unique name of each pair, which keys its sampled tokens.

    Returns:
        One record per pair.

    Raises:
        FloatingPointError: If the model's logits are not finite.
    """
    a_first, b_first = zip(*pairs, strict=True)
    branches = model.processor.pack([*a_first, *b_first], [[Thought()]] * 2 * len(pairs)).to(model.head.weight.device)
    seen = list(chain.from_iterable(see_contexts(model, branches)))
    texts: Sequence[tuple[str, ...]] = [("",)] * 2 * len(pairs)
    lengths: Sequence[tuple[int, ...]] = [()] * 2 * len(pairs)
    if sampling is not None:
        keys = [f"{name}, {first} first" for first in "AB" for name in names]
        groups = think(model, branches, sampling, names=keys, seen=seen)
        texts = [group.texts for group in groups]
        lengths = [tuple(len(thought.token_ids) for thought in group.thoughts) for group in groups]
    read = read_choices(model, branches, texts, source, seen=seen)
    orders = [_order(*one) for one in zip(read, texts, lengths, strict=True)]
    return [
        compare_orders(one, _swapped(other))
        for one, other in zip(orders[: len(pairs)], orders[len(pairs) :], strict=True)
    ]


def _order(readout: Readout, texts: tuple[str, ...], lengths: tuple[int, ...]) -> Order:
    """Return what the model says of two videos, as if the first one were A."""
    first, tie, second = readout.mean().tolist()
    return Order(first, tie, second, texts if lengths else (), lengths, readout.errors)


def _swapped(order: Order) -> Order:
    return Order(order.p_b, order.p_tie, order.p_a, order.thoughts, order.num_thought_tokens, order.errors)
