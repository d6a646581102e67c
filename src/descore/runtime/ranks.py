"""All ranks of a run or none: one that fails takes the others with it at once, and none outlives its launcher."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

from lightning import Callback, LightningModule, Trainer

PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


class AllRanksOrNone(Callback):
    """Ends the process of a rank that fails, with its error shown, as soon as it does.

    Lightning would tear the rank down first. That waits for the device, which may wait for ranks that will never come.
    A launcher ends the others: Lightning's own looks for dead ranks every five seconds, torchrun more often.
    """

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for all ranks, at the end of a run that went well: those that rank 0 has launched end with it."""
        trainer.strategy.barrier("teardown")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave with exit code 1; a run of one process, and one that was asked to leave, go the usual way."""
        if trainer.world_size == 1 or not isinstance(exception, Exception):
            return
        for logger in trainer.loggers:
            logger.finalize("failed")
        log.error("rank %d failed", trainer.global_rank, exc_info=exception)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def follow_launcher() -> None:
    """Let the kernel end this process when the one that launched it as a rank ends, however that came about."""
    if "LOCAL_RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
