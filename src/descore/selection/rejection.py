"""Rejection sampling: of labelled pairs, the thoughts of a model about both videos whose verdict is the label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from descore.inputs.choice import ChoiceSettings, outcome_of
from descore.pairwise.comparison import Order
from descore.scoring.folder import ScoringError
from descore.scoring.scorer import Scorer
from descore.types import Pair


@dataclass(frozen=True, slots=True)
class Sampled:
    """A pair that a model thought about.

    Attributes:
        pair: The pair, with the first right thought of each order; empty where none is right.
        error: Reason why its videos could not be compared; None if they could.
    """

    pair: Pair
    error: str | None = None


def sample_right(
    scorer: Scorer, pairs: Sequence[Pair], *, num_thoughts: int = 4, temperature: float | None = None
) -> Iterator[Sampled]:
    """Sample thoughts about each pair in both orders, and keep the first one of each order that is right.

    A thought is right if it is whole, see `ChoiceSettings.is_whole`, and its verdict is the label of the pair, of which
    the first is read. What it replaces are the thoughts about both videos; all else of the pair stays.

    Args:
        scorer: Scorer with a model that compares two videos, and thinks.
        pairs: Labelled pairs.
        num_thoughts: Number of thoughts for each pair and order.
        temperature: Sampling temperature; 0 (greedy) for one thought, 1 for several if not given.

    Returns:
        One record per pair, in their order, as soon as its batch is done.

    Raises:
        ScoringError: If the model scores single videos or does not think, or an option is out of its range.
    """
    choice = scorer.model.settings.choice
    if scorer.model.settings.is_pairwise and not scorer.thoughts:
        raise ScoringError("this model compares without a thought; pass one that was trained with model.thoughts=true")
    a, b = ([getattr(pair, side).video for pair in pairs] for side in "ab")
    prompts = [pair.prompt for pair in pairs]
    found = scorer.stream_comparisons(a, b, prompts, num_thoughts=num_thoughts, temperature=temperature)
    return (
        Sampled(_with_right(pair, one.orders, choice), None if one.orders else one.error)
        for pair, one in zip(pairs, found, strict=True)
    )


def _with_right(pair: Pair, orders: Sequence[Order], choice: ChoiceSettings) -> Pair:
    label = pair.preference[0]
    rights = zip(orders, (outcome_of(label), outcome_of(-label)), strict=bool(orders))
    found = [_first_right(order.thoughts, right, choice) for order, right in rights] or ["", ""]
    return replace(pair, thoughts=(found[0], found[1]))


def _first_right(thoughts: Sequence[str], right: str | None, choice: ChoiceSettings) -> str:
    """Return the first whole thought with this verdict, which is named as the thought sees the videos; "" for none."""
    return next((text for text in thoughts if choice.is_whole(text) and choice.said(text) == right), "")
