"""Watchdog that ends a hung run and shows where it hangs."""

from __future__ import annotations

import faulthandler
import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Watchdog(Callback):
    """Ends a process that makes no progress: exit code 1, with the stack of every thread on stderr.

    Progress is the start or end of a training or validation batch, or a saved checkpoint. The timer runs outside the
    Python interpreter, so it also catches a call that hangs inside a library. When the process of one rank has ended,
    those of the other ranks end too.

    Args:
        minutes: Minutes without progress after which the process ends. Choose more than the longest step takes,
            including compilation in the first one.

    Raises:
        ValueError: If minutes is not above 0.
    """

    def __init__(self, minutes: float = 30.0) -> None:
        if minutes <= 0:
            raise ValueError(f"expected minutes above 0, got {minutes}; remove the callback to run without it")
        self.minutes = minutes

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the timer."""
        self._restart()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Restart the timer."""
        self._restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restart the timer."""
        self._restart()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Restart the timer."""
        self._restart()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Restart the timer."""
        self._restart()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restart the timer."""
        self._restart()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restart the timer: a process must not hang while it fails, either."""
        self._restart()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the timer."""
        faulthandler.cancel_dump_traceback_later()

    def _restart(self) -> None:
        # The original stderr: a progress bar replaces sys.stderr by an object without a file descriptor.
        faulthandler.dump_traceback_later(60 * self.minutes, exit=True, file=sys.__stderr__ or 2)
