"""Ends a run that stands still, and shows where."""

from __future__ import annotations

import faulthandler
import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Watchdog(Callback):
    """Ends a process in which nothing has moved for too long: exit code 1, with the stack of every thread on stderr.

    A batch of training or validation that begins or ends, and a checkpoint, are signs of life. The clock runs outside
    of the interpreter, so a call that hangs within a library is found too. When one process of a job has ended, the
    others follow.

    Args:
        minutes: How long nothing may move; more than the longest step, the first one with its compilation included.
    """

    def __init__(self, minutes: float = 30.0) -> None:
        if minutes <= 0:
            raise ValueError(f"expected minutes above 0, got {minutes}")
        self.minutes = minutes

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wind the clock up."""
        self._wind()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Wind the clock up."""
        self._wind()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Wind the clock up."""
        self._wind()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Wind the clock up."""
        self._wind()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Wind the clock up."""
        self._wind()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Wind the clock up."""
        self._wind()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the clock running: a process must not hang while it fails, either."""
        self._wind()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the clock."""
        faulthandler.cancel_dump_traceback_later()

    def _wind(self) -> None:
        # The real stderr: a progress bar puts an object without a file in the place of sys.stderr.
        faulthandler.dump_traceback_later(60 * self.minutes, exit=True, file=sys.__stderr__ or 2)
