"""Orderly exit on a signal or Ctrl-C: a checkpoint after the current step, and exit code 143 or 130."""

from __future__ import annotations

import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.last_checkpoint import ends_epoch, last_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""

EXIT_CODE = 128 + signal.SIGTERM
"""Exit code that a shell reports for a process ended by SIGTERM; schedulers requeue a job on it."""


class Preemption(Callback):
    """On SIGTERM, SIGUSR1 or SIGUSR2, finishes the step, writes `last.ckpt`, and ends the run with exit code 143.

    Ctrl-C (SIGINT) does the same with exit code 130; a second one ends the run at once.

    The signal only sets a flag. At the end of each step and of each validation, all ranks agree whether any of them has
    received one. Lightning on its own would end with exit code 0, which a scheduler takes for a finished run, and under
    SLURM it would save in the middle of a step.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the signal handlers; Lightning restores all but that of Ctrl-C when the run ends."""
        self._on_interrupt = signal.getsignal(signal.SIGINT)
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handler of Ctrl-C."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the handler of Ctrl-C."""
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if any rank received a signal, unless gradients are being accumulated or the epoch ends here."""
        if not (trainer.fit_loop._should_accumulate() or ends_epoch(trainer)):  # a checkpoint holds no gradients
            self._save_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not leave before the validation: a run resumed from the step before it would skip it."""
        self._saved = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the validation; LastCheckpoint runs last and writes `last.ckpt` again, with the new best in it."""
        if not trainer.sanity_checking:
            self._save_if_asked(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End the run after the saved step is logged, which Lightning does after `on_train_batch_end`.

        Raises:
            SystemExit: With exit code 143, or 130 after Ctrl-C.
        """
        if self._saved:
            code = INTERRUPTED if self._asked == signal.SIGINT else EXIT_CODE
            raise SystemExit(code if _answers_for_the_job(trainer) else 0)

    def _save_if_asked(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        asked = bool(self._asked)
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(path := last_checkpoint(trainer))
            rank_zero_info(
                f"Stopped at step {trainer.global_step}, saved {path}. To go on, repeat the command with --resume auto "
                "(RESUME=auto for make)"
            )
            self._saved = True

    def _restore(self) -> None:
        if signal.getsignal(signal.SIGINT) == self._remember:
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _remember(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self._asked:
            raise SystemExit(INTERRUPTED)
        self._asked = number
        if number == signal.SIGINT:
            rank_zero_info("Stopping after this step; Ctrl-C again stops at once, without a checkpoint")


def _answers_for_the_job(trainer: Trainer) -> bool:
    """Return whether this process's exit code is that of the job.

    The exit code of a rank that Lightning launched is not: unless it is 0, Lightning kills the launching process.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    return trainer.is_global_zero or environment.creates_processes_externally
