"""Leaves in good order when a scheduler wants the machine back: a checkpoint after the step, and exit code 143."""

from __future__ import annotations

import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.last_checkpoint import ends_epoch, last_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EXIT_CODE = 128 + signal.SIGTERM
"""What a shell reports of a process that SIGTERM ended; schedulers requeue on it."""


class Preemption(Callback):
    """On SIGTERM, SIGUSR1 or SIGUSR2: finishes the step, writes `last.ckpt`, and ends the run with exit code 143.

    A signal only sets a flag. At the end of a step, and of a validation, all processes agree whether one of them has
    been asked to go. Lightning by itself would end with exit code 0, which a scheduler takes for a run that is done,
    and under SLURM save in the middle of whatever it was doing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which gives back what it found when the run ends."""
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if any process was asked to leave, no gradient is half gathered, and the epoch goes on."""
        if not (trainer.fit_loop._should_accumulate() or ends_epoch(trainer)):  # gradients are in no checkpoint
            self._save_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay: a run that goes on from a step before its validation would not make up for it."""
        self._saved = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the validation; LastCheckpoint comes last, and writes `last.ckpt` anew with the new best in it."""
        if not trainer.sanity_checking:
            self._save_if_asked(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Leave once the step that was saved is logged, which comes after `on_train_batch_end`.

        Raises:
            SystemExit: With exit code 143.
        """
        if self._saved:
            raise SystemExit(EXIT_CODE if _answers_for_the_job(trainer) else 0)

    def _save_if_asked(self, trainer: Trainer) -> None:
        asked = self._asked
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(path := last_checkpoint(trainer))
            rank_zero_info(f"Asked to leave at step {trainer.global_step}: go on from {path}, or with RESUME=auto")
            self._saved = True

    def _remember(self, number: int, frame: object) -> None:
        self._asked = True


def _answers_for_the_job(trainer: Trainer) -> bool:
    """Whether the exit code is that of the job.

    Those of processes that Lightning has started are not: it kills the one that did, where one of them is not 0.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    return trainer.is_global_zero or environment.creates_processes_externally
