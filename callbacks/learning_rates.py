"""The learning rate of each part, as metrics."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor


class LearningRates(LearningRateMonitor):
    """Lightning's LearningRateMonitor, which a run without a logger can have too."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Find the names of the learning rates, unless nothing will be logged."""
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)
