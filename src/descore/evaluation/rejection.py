"""Rejection sampling: of labelled pairs, the thoughts of a model about both videos whose verdict is the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from descore.evaluation.folder import Evaluation
from descore.inputs.choice import ChoiceSettings, outcome_of
from descore.pairwise.comparison import Comparison, Order
from descore.scoring.folder import ScoringError
from descore.tables.pairs import read_pairs
from descore.types import Pair


def right_thoughts(evaluation: Evaluation) -> list[Pair]:
    """Return the pairs of an evaluation with the first right thought of each order, "" where none is right.

    A thought is right if it is whole, see `ChoiceSettings.is_whole`, and its verdict is the label of the pair, of which
    that of the first dimension counts. What it replaces are the thoughts about both videos; all else of the pair is as
    its table has it.

    Args:
        evaluation: Finished evaluation of a model that compares two videos, and thought about them.

    Raises:
        ScoringError: If the evaluation is another one, is not finished, or its table has changed.
    """
    info = evaluation.info
    choice = info["protocol"].get("choice")
    if choice is None or not info["protocol"]["thoughts"]:
        raise ScoringError(
            f"{evaluation.folder}: expected the evaluation of a model that compares two videos and thinks about them"
        )
    if not evaluation.is_complete:
        raise ScoringError(
            f"{evaluation.folder}: {evaluation.num_scored} of {evaluation.num_to_score} pairs are compared; repeat "
            "descore evaluate to compare the others"
        )
    found = read_pairs(info["table"], preset=info["preset"], dimensions=info["dimensions"], on_bad_row="skip").pairs
    by_id = {pair.id: pair for pair in found}
    if missing := [record["id"] for record in evaluation.pairs if record["id"] not in by_id]:
        raise ScoringError(f"{info['table']}: pair {missing[0]} of {evaluation.folder} is not there any more")
    compared = [Comparison.from_json(one or {}) for one in evaluation.comparisons]
    words = ChoiceSettings(**choice)
    pairs = zip(evaluation.pairs, compared, strict=True)
    return [_with_right(by_id[record["id"]], one.orders, words) for record, one in pairs]


def _with_right(pair: Pair, orders: Sequence[Order], choice: ChoiceSettings) -> Pair:
    label = pair.preference[0]
    rights = zip(orders, (outcome_of(label), outcome_of(-label)), strict=bool(orders))
    found = [_first_right(order.thoughts, right, choice) for order, right in rights] or ["", ""]
    return replace(pair, thoughts=(found[0], found[1]))


def _first_right(thoughts: Sequence[str], right: str | None, choice: ChoiceSettings) -> str:
    """Return the first whole thought with this verdict, which is named as the thought sees the videos; "" for none."""
    return next((text for text in thoughts if choice.is_whole(text) and choice.said(text) == right), "")
