"""Throughput of training, and the share of its time that is spent waiting for data."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from descore.types import PairBatch

FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""Name of the action in which Lightning fetches the next training batch."""


class Throughput(Callback):
    """Logs `train/pairs_per_second`, `train/tokens_per_second`, `train/wait_share` and `time/wait`.

    Each is a mean over the last `trainer.log_every_n_steps` batches. `time/wait` is the time spent waiting for the
    loader, in seconds per batch, and `train/wait_share` its share of the time of a batch, 0 to 1. Batches during which
    a validation ran or a checkpoint was saved are left out. The rates are those of this device times the number of
    devices. Measuring never synchronises with a device.
    """

    def __init__(self) -> None:
        self._batches: deque[_Timing] = deque()
        self._ended: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start timing the loader."""
        self._batches = deque(maxlen=max(trainer.log_every_n_steps, 1))  # type: ignore[attr-defined]
        self._ended = None
        self._loader = _LoaderTimer(trainer.profiler)  # type: ignore[attr-defined]
        trainer.profiler = self._loader  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        """Time the batch from the end of the previous one, and log the mean over the last batches."""
        now, waited = time.perf_counter(), self._loader.take()
        if self._ended is not None:
            tokens = batch.branches.layout.num_tokens
            self._batches.append(_Timing(now - self._ended, waited, len(batch.pairs), tokens))
            rates = _rates(self._batches, trainer.world_size)
            # As CPU tensors: Lightning would copy a float to the device and wait for it.
            pl_module.log_dict({name: torch.tensor(value) for name, value in rates.items()})
        self._ended = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the batch that this validation interrupts."""
        self._ended = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out the batch that saving this checkpoint interrupts."""
        self._ended = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the run's own profiler."""
        trainer.profiler = self._loader.profiler  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Timing:
    """Timing of one batch: seconds from the end of the previous batch to its end, and those spent in the loader."""

    seconds: float
    waited: float
    pairs: int
    tokens: int


def _rates(batches: deque[_Timing], world_size: int) -> dict[str, float]:
    seconds = sum(batch.seconds for batch in batches)
    return {
        "train/pairs_per_second": world_size * sum(batch.pairs for batch in batches) / seconds,
        "train/tokens_per_second": world_size * sum(batch.tokens for batch in batches) / seconds,
        "train/wait_share": sum(batch.waited for batch in batches) / seconds,
        "time/wait": sum(batch.waited for batch in batches) / len(batches),
    }


class _LoaderTimer(Profiler):
    """Profiler that times the training loader, and forwards every action to the run's own profiler.

    The hooks around a batch cannot measure this: between them Lightning also reads the metrics of the progress bar,
    which waits for the device to finish the batch.
    """

    def __init__(self, profiler: Profiler) -> None:
        super().__init__()
        self.profiler = profiler
        self._seconds = 0.0

    def start(self, action_name: str) -> None:
        self.profiler.start(action_name)
        if action_name == FETCH:
            self._seconds -= time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name == FETCH:
            self._seconds += time.perf_counter()
        self.profiler.stop(action_name)

    def take(self) -> float:
        """Return the seconds spent in the loader since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
