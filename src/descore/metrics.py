"""How often rewards agree with people: exact accuracy with and without ties, its interval, and a torchmetrics class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_NO_TIES = -1.0
_Z_95 = 1.959964


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


def preference_accuracy(margin: Tensor | Sequence[float], preference: Tensor | Sequence[float]) -> Agreement:
    """Compare reward margins with human preferences, with and without ties.

    The tie threshold is searched exactly ("Ties Matter", arXiv 2305.14324, algorithm 1): every distinct |margin|, and
    one below them all. Equal margins move together, so row order changes nothing. O(N log N).

    Args:
        margin: [N] reward of A minus reward of B; nan where a reward failed.
        preference: [N] +1 (A), -1 (B), 0 (tie) or nan (no usable label).

    Returns:
        The accuracies and what they count; an accuracy over no pairs is nan.

    Raises:
        ValueError: If the two are not [N] of the same N.
    """
    margin, preference = _float64(margin), _float64(preference)
    if margin.ndim != 1 or margin.shape != preference.shape:
        raise ValueError(
            f"expected margin and preference of one shape [N], got {list(margin.shape)} and {list(preference.shape)}; "
            "pass one reward dimension at a time"
        )
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


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Return the Wilson 95 % confidence interval of an accuracy over n pairs; (nan, nan) if there are none.

    >>> [round(bound, 3) for bound in interval(0.8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return math.nan, math.nan
    shrink = 1 / (1 + _Z_95**2 / n)
    centre = shrink * (accuracy + _Z_95**2 / (2 * n))
    half = shrink * _Z_95 * math.sqrt(accuracy * (1 - accuracy) / n + _Z_95**2 / (4 * n**2))
    return centre - half, centre + half


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


def _best_threshold(size: Tensor, right: Tensor, tie: Tensor) -> tuple[float, float]:
    """Return the best share called right, and its threshold, from |margin| [N] and two bools [N]."""
    size, order = size.sort()
    last_of_equals = torch.cat([size[1:] != size[:-1], torch.ones(len(size[:1]), dtype=torch.bool)])
    thresholds = torch.cat([torch.tensor([_NO_TIES]), size[last_of_equals]])
    gained = (tie.long() - right.long())[order].cumsum(0)[last_of_equals]
    num_right = right.sum() + torch.cat([torch.zeros(1, dtype=torch.int64), gained])
    best = int((num_right == num_right.max()).nonzero()[0])
    return _ratio(int(num_right[best]), len(size)), float(thresholds[best])


def _float64(values: Tensor | Sequence[float]) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
