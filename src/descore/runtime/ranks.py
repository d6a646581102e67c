"""A run ends on all ranks or on none: a failing rank ends the others at once, and no rank outlives its launcher."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

from lightning import Callback, LightningModule, Trainer

from descore.runtime.wrong_use import WRONG_USE, find_wrong_use

PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


class AllRanksOrNone(Callback):
    """Ends the process of a failing rank at once, after showing its error.

    Lightning would tear the rank down first, which waits for the device, and the device may wait for other ranks. The
    launcher ends those: Lightning's looks for dead ranks every five seconds, torchrun more often.
    """

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for all ranks at the end of a successful run: ranks that rank 0 has launched end with it."""
        trainer.strategy.barrier("teardown")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Exit with code 1, or 2 for wrong use; a run of one rank, or one that was asked to stop, ends as usual."""
        if trainer.world_size == 1 or not isinstance(exception, Exception):
            return
        for logger in trainer.loggers:
            logger.finalize("failed")
        log.error("rank %d failed", trainer.global_rank, exc_info=exception)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if find_wrong_use(exception) is None else WRONG_USE)


def follow_launcher() -> None:
    """Let the kernel kill this process when the process that launched it as a rank ends, for whatever reason."""
    if "LOCAL_RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
