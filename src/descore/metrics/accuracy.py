"""How often rewards agree with people: exact accuracy with and without ties, at a given threshold, and by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from descore.metrics.columns import Column, check_values, float64_columns, numbered

NO_TIES = -1.0
"""The threshold that calls nothing a tie, not even a margin of 0."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Accuracy of reward margins against human preferences.

    Attributes:
        without_ties: Share of the decided pairs whose margin has the right sign; a margin of 0 is wrong.
        with_ties: Share of all pairs called right when |margin| <= `tie_threshold` is called a tie.
        tie_threshold: The threshold that maximises `with_ties` on these very pairs, the smallest if several do;
            -1 calls nothing a tie.
        num_pairs: Pairs in `with_ties`.
        num_decided: Pairs in `without_ties`: those that people did not call a tie.
        num_failed: Labelled pairs with a nan margin, in neither accuracy; report it next to them.
        num_unusable: Pairs without a label (nan), in neither accuracy.
    """

    without_ties: float
    with_ties: float
    tie_threshold: float
    num_pairs: int
    num_decided: int
    num_failed: int
    num_unusable: int


def preference_accuracy(margin: Column, preference: Column) -> Agreement:
    """Compare reward margins with human preferences, with and without ties.

    The tie threshold is searched exactly ("Ties Matter", arXiv 2305.14324, algorithm 1): every distinct |margin|, and
    one below them all. Equal margins move together, so row order changes nothing. O(N log N).

    Args:
        margin: [N] reward of A minus reward of B; nan where a reward failed.
        preference: [N] +1 (A), -1 (B), 0 (tie) or nan (no usable label).

    Returns:
        The accuracies and what they count; an accuracy over no pairs is nan.

    Raises:
        ValueError: If the two are not [N] of the same N, or a preference is another number.
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
    """Return the share of labelled, scored pairs called right when |margin| <= `tie_threshold` is called a tie.

    With a threshold that was chosen on another split, this is accuracy with ties as it will be in use. -1 calls nothing
    a tie. Arguments and errors otherwise as in `preference_accuracy`; nan over no pairs.

    >>> accuracy_at([0.1, 3.0, -2.0], [0, 1, 1], tie_threshold=0.5)
    0.6666666666666666
    """
    margin, preference = margin_and_preference(margin, preference)
    counts = ~margin.isnan() & ~preference.isnan()
    return _ratio(int(_right(margin, preference, tie_threshold)[counts].sum()), int(counts.sum()))


def calls(margin: Column, preference: Column, tie_threshold: float | None = None) -> Tensor:
    """Say of each pair whether it is called right; the mean over those that count is an accuracy.

    Args:
        margin: [N] as in `preference_accuracy`.
        preference: [N] as in `preference_accuracy`.
        tie_threshold: |margin| up to this is called a tie, -1 for none. Without a threshold, ties of people do not
            count.

    Returns:
        [N] 1 right, 0 wrong, nan where the pair does not count: without a label, with a nan margin, or such a tie.

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
    """Return the agreement within each group of pairs, such as those of one generator, sorted by name.

    Each group tunes its own tie threshold. To count a pair for the generators of both its videos, pass it twice.

    Args:
        margin: [N] as in `preference_accuracy`.
        preference: [N] as in `preference_accuracy`.
        groups: N names.

    Raises:
        ValueError: As `preference_accuracy`, or if there are not N names.
    """
    margin, preference = margin_and_preference(margin, preference)
    names, places = numbered("groups", groups, len(margin))
    order = places.argsort(stable=True)
    rows = dict(zip(names, torch.split(order, places.bincount().tolist()), strict=True)) if names else {}
    return {group: preference_accuracy(margin[rows[group]], preference[rows[group]]) for group in sorted(rows)}


def margin_and_preference(margin: Column, preference: Column) -> tuple[Tensor, Tensor]:
    """Return both as float64 [N], checked as `preference_accuracy` says."""
    margin, preference = float64_columns(margin=margin, preference=preference)
    check_values("preferences", preference, [1, -1, 0], "1 (A), -1 (B), 0 (tie) or nan (no usable label)")
    return margin, preference


def _right(margin: Tensor, preference: Tensor, tie_threshold: float) -> Tensor:
    """Return a bool for every pair, of no meaning where one of the two is nan."""
    called_tie = margin.abs() <= tie_threshold
    return torch.where(preference == 0, called_tie, ~called_tie & (margin.sign() == preference))


def _best_threshold(size: Tensor, right: Tensor, tie: Tensor) -> tuple[float, float]:
    """Return the best share called right, and its threshold, from |margin| [N] and two bools [N]."""
    size, order = size.sort()
    last_of_equals = torch.cat([size[1:] != size[:-1], torch.ones(len(size[:1]), dtype=torch.bool)])
    thresholds = torch.cat([torch.tensor([NO_TIES]), size[last_of_equals]])
    gained = (tie.long() - right.long())[order].cumsum(0)[last_of_equals]
    num_right = right.sum() + torch.cat([torch.zeros(1, dtype=torch.int64), gained])
    best = int((num_right == num_right.max()).nonzero()[0])
    return _ratio(int(num_right[best]), len(size)), float(thresholds[best])


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


class PreferenceAccuracy(Metric):
    """Accuracy without ties, accumulated over batches and ranks; one instance per reward dimension.

    It keeps every margin, so uneven batches and ranks weigh each pair alike, and the tie search sees all of them.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    margins: list[Tensor]
    preferences: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("margins", default=[], dist_reduce_fx="cat")
        self.add_state("preferences", default=[], dist_reduce_fx="cat")

    def update(self, margin: Tensor, preference: Tensor) -> None:
        """Add a batch; shapes and values as in `preference_accuracy`."""
        self.margins.append(margin.detach().float())
        self.preferences.append(preference.detach().float())

    def compute(self) -> Tensor:
        """Return the accuracy without ties as a scalar."""
        return torch.tensor(self._agreement().without_ties, device=self.device)

    def result(self) -> Agreement:
        """Return everything that was counted, over all ranks; every rank has to call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._agreement()

    def _agreement(self) -> Agreement:
        states = (self.margins, self.preferences)
        margin, preference = (dim_zero_cat(state) if len(state) else torch.empty(0) for state in states)
        return preference_accuracy(margin, preference)
