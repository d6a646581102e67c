"""The progress of a run where there is no terminal to draw a bar in: plain lines on standard output."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from callbacks.progress import on_terminal, short

PAIRS_PER_SECOND = "train/pairs_per_second"


class ProgressLines(Callback):
    """Prints a line every few optimizer steps and at each validation, unless standard output is a terminal.

    A line has the step, the metrics of the progress bar, pairs per second where `Throughput` measures them, and the
    time that the run will take yet, at the pace so far:

        step 20/374  loss: 0.693  accuracy: 0.500  8.1 pairs/s  0:05:12 left

    Args:
        every_n_steps: Number of optimizer steps between two lines.
        minutes: Minutes of a validation after which a line says how far it is.
    """

    def __init__(self, every_n_steps: int = 10, minutes: float = 1.0) -> None:
        self.every_n_steps = every_n_steps
        self.minutes = minutes
        self._shown_step = self._first_step = 0
        self._started = self._validating_since = self._shown_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting steps and time."""
        self._shown_step = self._first_step = trainer.global_step
        self._started = time.monotonic()
        self._show(trainer, "training starts")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if one is due."""
        if trainer.global_step < self._shown_step + self.every_n_steps or not _active(trainer):
            return
        self._shown_step = trainer.global_step
        rate = trainer.callback_metrics.get(PAIRS_PER_SECOND)
        pace = [] if rate is None else [f"{float(rate):.1f} pairs/s"]
        self._show(trainer, *_metrics(trainer), *pace, *self._left(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print that validation begins."""
        self._validating_since = self._shown_at = time.monotonic()
        if not trainer.sanity_checking:
            self._show(trainer, "validating")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print how far a long validation is."""
        if time.monotonic() - self._shown_at > 60 * self.minutes:
            self._shown_at = time.monotonic()
            sizes = [int(size) for size in trainer.num_val_batches]
            self._show(trainer, f"validated {sum(sizes[:dataloader_idx]) + batch_idx + 1} of {sum(sizes)} batches")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what validation has found."""
        if not trainer.sanity_checking:
            took = f"validated in {_clock(time.monotonic() - self._validating_since)}"
            self._show(trainer, took, *_metrics(trainer, "val/"))

    def _left(self, trainer: Trainer) -> list[str]:
        """Return the time that the run will take yet, where its end is known."""
        per_step = (time.monotonic() - self._started) / (trainer.global_step - self._first_step)
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        ends = [left for timer in timers if (left := timer.time_remaining()) is not None]
        if num_steps := _num_steps(trainer):
            ends.append((num_steps - trainer.global_step) * per_step)
        return [f"{_clock(max(min(ends), 0))} left"] if ends else []

    def _show(self, trainer: Trainer, *parts: str) -> None:
        if _active(trainer):
            num_steps = _num_steps(trainer)
            print("  ".join([f"step {trainer.global_step}{f'/{num_steps}' if num_steps else ''}", *parts]), flush=True)


def _active(trainer: Trainer) -> bool:
    return trainer.is_global_zero and not on_terminal()


def _num_steps(trainer: Trainer) -> int | None:
    """Return the number of optimizer steps of the run; None if only its time, or nothing, limits it."""
    known: int | None = getattr(trainer.lightning_module, "num_steps", None)
    return known


def _metrics(trainer: Trainer, prefix: str = "") -> list[str]:
    """Format the metrics of the progress bar whose tags begin with a prefix."""
    metrics = trainer.progress_bar_metrics
    return [f"{short(tag)}: {value:.3f}" for tag, value in metrics.items() if tag.startswith(prefix)]


def _clock(seconds: float) -> str:
    """Format a time.

    >>> _clock(312.4)
    '0:05:12'
    """
    return str(timedelta(seconds=int(seconds)))
