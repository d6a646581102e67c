"""The progress bar of a run: one short line, with the headline in it."""

from __future__ import annotations

import logging
import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class CompactProgressBar(RichProgressBar):
    """Shows loss, accuracy and validation accuracy by short names, so that they fit beside the bar.

    Args:
        refresh_rate: How often the terminal is redrawn at most, per second.
        leave: Whether the bar of every epoch stays in the terminal.
    """

    def __init__(self, refresh_rate: int = 4, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let Lightning's messages appear above the bar; otherwise each of them leaves a copy of it behind."""
        super().setup(trainer, pl_module, stage)
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.setStream(_CurrentStderr())

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Name `train/preference_accuracy` "accuracy" and `val/preference_accuracy` "val accuracy"."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        return {_short(name): value for name, value in metrics.items() if name != "v_num"}

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Leave room for the metrics: a short bar, and no iterations per second beside the time that is left."""
        description, bar, batches, times, _ = super().configure_columns(trainer)
        bar.bar_width = 16
        return [description, bar, batches, times]

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts to epoch -2 when a run has max_steps alone.
        return super()._get_train_description(current_epoch).replace("/-2", "   ")


class _CurrentStderr:
    """Standard error as it is when written to: while a bar is drawn that is rich's, which knows where the bar is."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _short(tag: str) -> str:
    """Shorten a TensorBoard tag.

    >>> _short("train/loss"), _short("val/preference_accuracy")
    ('loss', 'val accuracy')
    """
    return tag.removeprefix("train/").replace("preference_", "").replace("/", " ")
