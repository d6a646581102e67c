"""The progress bar of a run: one short line with loss, accuracy and validation accuracy."""

from __future__ import annotations

import logging
import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class CompactProgressBar(RichProgressBar):
    """Progress bar with short metric names, so that loss, accuracy and validation accuracy fit beside the bar.

    It is drawn in a terminal only; `callbacks.progress_lines.ProgressLines` is there for everywhere else.

    Args:
        refresh_rate: Number of updates of the bar per second; 0 hides it.
        leave: Whether the bar of each finished epoch stays in the terminal.
    """

    def __init__(self, refresh_rate: int = 4, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print Lightning's messages above the bar; otherwise each message would leave a copy of the bar behind."""
        super().setup(trainer, pl_module, stage)
        if not on_terminal():
            self.disable()
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                    handler.setStream(_CurrentStderr())

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Shorten the metric names: `train/preference_accuracy` to "accuracy", the one of `val/` to "val accuracy"."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        return {short(name): value for name, value in metrics.items() if name != "v_num"}

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Make room for the metrics: a short bar, and no column of iterations per second."""
        description, bar, batches, times, _ = super().configure_columns(trainer)
        bar.bar_width = 16
        return [description, bar, batches, times]

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning shows "Epoch 0/-2" for a run that is limited by max_steps alone.
        return super()._get_train_description(current_epoch).replace("/-2", "   ")


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


class _CurrentStderr:
    """Stream to whatever sys.stderr is at the time: rich replaces it while a bar is drawn, and writes above the bar."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def short(tag: str) -> str:
    """Shorten a TensorBoard tag.

    >>> short("train/loss"), short("val/preference_accuracy")
    ('loss', 'val accuracy')
    """
    return tag.removeprefix("train/").replace("preference_", "").replace("/", " ")
