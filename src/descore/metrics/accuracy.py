"""Preference accuracy: with and without ties, at a given tie threshold, and by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from descore.metrics.columns import Column, check_values, float64_columns, number_keys

NO_TIES = -1.0
"""Tie threshold with which no margin counts as a tie, not even 0."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Accuracy of reward margins against human preferences.

    Attributes:
        without_ties: Share of decided pairs whose margin has the right sign; a margin of 0 counts as wrong.
        with_ties: Share of all pairs predicted right, where |margin| <= `tie_threshold` predicts a tie.
        tie_threshold: Threshold that maximises `with_ties` on these same pairs, the smallest if several do; -1 predicts
            no ties.
        num_pairs: Number of pairs in `with_ties`.
        num_decided: Number of pairs in `without_ties`: those that people did not label as ties.
        num_failed: Number of labelled pairs whose margin is nan; neither accuracy counts them, so report them too.
        num_unusable: Number of pairs without a usable label (nan); neither accuracy counts them.
    """

    without_ties: float
    with_ties: float
    tie_threshold: float
    num_pairs: int
    num_decided: int
    num_failed: int
    num_unusable: int


def preference_accuracy(margin: Column, preference: Column) -> Agreement:
    """Compute the accuracy of reward margins against human preferences, with and without ties.

    The search for the tie threshold is exact ("Ties Matter", arXiv 2305.14324, algorithm 1): it tries every distinct
    |margin|, and one threshold below them all. Pairs with equal |margin| move together, so row order has no effect. The
    cost is O(N log N).

    Args:
        margin: [N] reward of A minus reward of B for each pair; nan where a reward failed.
        preference: [N] +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label.

    Returns:
        Both accuracies, the threshold and the numbers of pairs; an accuracy over no pairs is nan.

    Raises:
        ValueError: If the columns are not both [N], or a preference is another number.

    The threshold 0.1 makes the third pair a tie, so all three are right:

    >>> found = preference_accuracy([3.0, -2.0, 0.1], [1, -1, 0])
    >>> found.without_ties, found.with_ties, found.num_pairs, found.num_decided
    (1.0, 1.0, 3, 2)
    """
    margin, preference = margin_and_preference(margin, preference)
    labelled, scored = ~preference.isnan(), ~margin.isnan()
    margin, preference = margin[labelled & scored], preference[labelled & scored]
    decided = preference != 0
    right = decided & (margin.sign() == preference)
    with_ties, tie_threshold = _best_threshold(margin.abs(), right, ~decided)
    return Agreement(
        without_ties=_ratio(int(right.sum()), int(decided.sum())),
        with_ties=with_ties,
        tie_threshold=tie_threshold,
        num_pairs=len(margin),
        num_decided=int(decided.sum()),
        num_failed=int((labelled & ~scored).sum()),
        num_unusable=int((~labelled).sum()),
    )


def accuracy_at(margin: Column, preference: Column, tie_threshold: float) -> float:
    """Compute accuracy with ties at a given threshold: the share of labelled, scored pairs predicted right.

    With a threshold that was tuned on another split, this estimates the accuracy on new data.

    Args:
        margin: [N] reward of A minus reward of B for each pair; nan where a reward failed.
        preference: [N] +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label.
        tie_threshold: Largest |margin| that predicts a tie; -1 predicts no ties.

    Returns:
        Accuracy from 0 to 1; nan over no pairs.

    Raises:
        ValueError: If the columns are not both [N], or a preference is another number.

    >>> accuracy_at([0.1, 3.0, -2.0], [0, 1, 1], tie_threshold=0.5)
    0.6666666666666666
    """
    margin, preference = margin_and_preference(margin, preference)
    counts = ~margin.isnan() & ~preference.isnan()
    return _ratio(int(_right(margin, preference, tie_threshold)[counts].sum()), int(counts.sum()))


def calls(margin: Column, preference: Column, tie_threshold: float | None = None) -> Tensor:
    """Return which pairs are called right, that is, predicted as people labelled them; their mean is an accuracy.

    Args:
        margin: [N] reward of A minus reward of B for each pair; nan where a reward failed.
        preference: [N] +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label.
        tie_threshold: Largest |margin| that predicts a tie, -1 to predict no ties; None leaves out the pairs that
            people labelled as ties.

    Returns:
        [N] float64: 1 for right, 0 for wrong, nan for a pair that does not count (no usable label, a nan margin, or a
        tie that is left out).

    Raises:
        ValueError: If the columns are not both [N], or a preference is another number.

    >>> calls([3.0, -2.0, 0.1], [1, 1, 0])
    tensor([1., 0., nan], dtype=torch.float64)
    """
    margin, preference = margin_and_preference(margin, preference)
    counts = ~margin.isnan() & ~preference.isnan()
    if tie_threshold is None:
        counts &= preference != 0
        tie_threshold = NO_TIES
    return torch.where(counts, _right(margin, preference, tie_threshold).double(), math.nan)


def by_group(margin: Column, preference: Column, groups: Sequence[str]) -> dict[str, Agreement]:
    """Compute `preference_accuracy` within each group of pairs, such as the pairs of one generator.

    Each group tunes its own tie threshold. To count a pair for the generators of both its videos, pass it twice.

    Args:
        margin: [N] reward of A minus reward of B for each pair; nan where a reward failed.
        preference: [N] +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label.
        groups: N names, the group of each pair.

    Returns:
        Accuracy of each group by name, sorted by name.

    Raises:
        ValueError: If the columns are not both [N], a preference is another number, or there are not N names.

    >>> found = by_group([1.0, -1.0, -1.0], [1, 1, -1], ["sora", "sora", "kling"])
    >>> {name: agreement.without_ties for name, agreement in found.items()}
    {'kling': 1.0, 'sora': 0.5}
    """
    margin, preference = margin_and_preference(margin, preference)
    names, places = number_keys("groups", groups, len(margin))
    order = places.argsort(stable=True)
    rows = dict(zip(names, torch.split(order, places.bincount().tolist()), strict=True)) if names else {}
    return {group: preference_accuracy(margin[rows[group]], preference[rows[group]]) for group in sorted(rows)}


def margin_and_preference(margin: Column, preference: Column) -> tuple[Tensor, Tensor]:
    """Convert both columns to float64 [N].

    Raises:
        ValueError: If the columns are not both [N], or a preference is not 1, -1, 0 or nan.
    """
    margin, preference = float64_columns(margin=margin, preference=preference)
    check_values("preferences", preference, [1, -1, 0], "1 (A), -1 (B), 0 (tie) or nan (no usable label)")
    return margin, preference


def _right(margin: Tensor, preference: Tensor, tie_threshold: float) -> Tensor:
    """Return which pairs are predicted right; the result is meaningless where a margin or preference is nan."""
    called_tie = margin.abs() <= tie_threshold
    return torch.where(preference == 0, called_tie, ~called_tie & (margin.sign() == preference))


def _best_threshold(size: Tensor, right: Tensor, tie: Tensor) -> tuple[float, float]:
    """Return the best share of right predictions and its threshold, given |margin| [N] and two bool tensors [N]."""
    size, order = size.sort()
    last_of_equals = torch.cat([size[1:] != size[:-1], torch.ones(len(size[:1]), dtype=torch.bool)])
    thresholds = torch.cat([torch.tensor([NO_TIES]), size[last_of_equals]])
    gained = (tie.long() - right.long())[order].cumsum(0)[last_of_equals]
    num_right = right.sum() + torch.cat([torch.zeros(1, dtype=torch.int64), gained])
    best = int((num_right == num_right.max()).nonzero()[0])
    return _ratio(int(num_right[best]), len(size)), float(thresholds[best])


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
