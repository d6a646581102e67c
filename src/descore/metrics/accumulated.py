"""Preference accuracy accumulated over batches and ranks, as a metric of torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from descore.metrics.accuracy import Agreement, preference_accuracy


class PreferenceAccuracy(Metric):
    """Preference accuracy accumulated over batches and ranks; use one instance for each reward dimension.

    The metric keeps every margin, so each pair has the same weight in uneven batches and ranks, and the search for the
    tie threshold sees all pairs.

    >>> metric = PreferenceAccuracy()
    >>> metric.update(torch.tensor([3.0, -2.0]), torch.tensor([1.0, 1.0]))
    >>> metric.update(torch.tensor([0.1]), torch.tensor([0.0]))
    >>> metric.compute(), metric.result().num_pairs
    (tensor(0.5000), 3)
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
        """Add a batch of pairs.

        Args:
            margin: [N] reward of A minus reward of B; nan where a reward failed.
            preference: [N] +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label.
        """
        self.margins.append(margin.detach().float())
        self.preferences.append(preference.detach().float())

    def compute(self) -> Tensor:
        """Return the accuracy without ties as a scalar."""
        return torch.tensor(self._agreement().without_ties, device=self.device)

    def result(self) -> Agreement:
        """Return both accuracies and the counts over all ranks; every rank must call this."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._agreement()

    def _agreement(self) -> Agreement:
        states = (self.margins, self.preferences)
        margin, preference = (dim_zero_cat(state) if len(state) else torch.empty(0) for state in states)
        return preference_accuracy(margin, preference)
