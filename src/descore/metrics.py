"""Every measure of how rewards agree with people, in one place, and accuracy as a torchmetrics class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from descore.agreement import Agreement, accuracy_at, by_group, calls, preference_accuracy
from descore.calibration import Bin, Calibration, RankCorrelation, calibration, rank_correlation
from descore.intervals import PairedTest, bootstrap_interval, interval, paired_test

__all__ = [
    "Agreement",
    "Bin",
    "Calibration",
    "PairedTest",
    "PreferenceAccuracy",
    "RankCorrelation",
    "accuracy_at",
    "bootstrap_interval",
    "by_group",
    "calibration",
    "calls",
    "interval",
    "paired_test",
    "preference_accuracy",
    "rank_correlation",
]


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
