"""How fast training is, and how much of its time goes into waiting for data."""

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
"""Lightning's name for asking the training loader for its next batch."""


class Throughput(Callback):
    """Logs `train/pairs_per_second`, `train/tokens_per_second`, `train/wait_share` and `time/wait` in seconds a batch.

    Each is taken over the last `trainer.log_every_n_steps` batches. The wait share is the part of the time that passed
    inside the loader's `next`. A batch that validation or saving fell into is left out, together with its time. Rates
    are those of all devices, taken to be as fast as this one. Nothing here waits for a device.
    """

    def __init__(self) -> None:
        self._batches: deque[_Timing] = deque()
        self._ended: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to time the loader."""
        self._batches = deque(maxlen=max(trainer.log_every_n_steps, 1))  # type: ignore[attr-defined]
        self._ended = None
        self._loader = _LoaderTimer(trainer.profiler)  # type: ignore[attr-defined]
        trainer.profiler = self._loader  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        """Time the batch from the end of the one before, and log the mean of the last ones."""
        now, waited = time.perf_counter(), self._loader.take()
        if self._ended is not None:
            tokens = batch.branches.layout.num_tokens
            self._batches.append(_Timing(now - self._ended, waited, len(batch.pairs), tokens))
            rates = _rates(self._batches, trainer.world_size)
            # As tensors of the host: a float would be copied to the device, which waits for it.
            pl_module.log_dict({name: torch.tensor(value) for name, value in rates.items()})
        self._ended = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the batch out that validation falls into."""
        self._ended = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave the batch out that saving falls into."""
        self._ended = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the run its profiler back."""
        trainer.profiler = self._loader.profiler  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Timing:
    """One batch: seconds from the end of the batch before to its own, and those of them that went into the loader."""

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
    """Times the training loader, and passes every action on to the run's own profiler.

    The hooks before and after a batch cannot tell: between them Lightning also reads the progress bar's metrics, which
    waits until the device is done with the batch.
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
        """Return the seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
