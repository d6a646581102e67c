"""Keeps `last.ckpt`, from which a run goes on that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from descore.atomic import check_writable


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every so many optimizer steps, after every validation, and at the end.

    Lightning's own `save_last` writes it with a new best only. Here a run that goes on has lost nothing but the steps
    after it: what a checkpoint has behind it is logged before it appears. Two kinds of steps wait, since Lightning does
    not go on from them exactly: one that a validation follows is saved after that, which would not be made up for; the
    last one of an epoch is saved with the next, or else an epoch is not counted.

    Args:
        every_n_steps: Optimizer steps that a kill may cost.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        self.every_n_steps = every_n_steps
        self._saved_step = 0
        self._pending: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before the first step that there is somewhere to write to.

        Raises:
            OSError: If there is not.
        """
        if stage == "fit" and trainer.is_global_zero and not _dry(trainer):
            check_writable(last_checkpoint(trainer).parent)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here."""
        self._saved_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the state that the last step has left, now that Lightning has logged it."""
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the state when it is time to."""
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        waits = ends_epoch(trainer) or loop._should_check_val_fx(fetcher)  # type: ignore[arg-type]
        if trainer.global_step >= self._saved_step + self.every_n_steps and not waits:
            self._take(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what validation has found, too."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._take(trainer)
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        if trainer.global_step > self._saved_step:
            self._take(trainer)
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the loggers write what they hold: a checkpoint, of this callback or another, must not know more."""
        _flush(trainer)

    def _take(self, trainer: Trainer) -> None:
        if not (_dry(trainer) or trainer.fit_loop._should_accumulate()):  # gradients are in no checkpoint
            # Weights and moments are those of the run, and not copies: write them before the next step.
            self._pending = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            self._saved_step = trainer.global_step

    def _write(self, trainer: Trainer) -> None:
        if self._pending is not None:
            _flush(trainer)
            trainer.strategy.save_checkpoint(self._pending, last_checkpoint(trainer))
            trainer.strategy.barrier("last checkpoint")
            self._pending = None


def last_checkpoint(trainer: Trainer) -> Path:
    """Return where `last.ckpt` lies: beside the best one."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath:
        return Path(callback.dirpath) / "last.ckpt"
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints/last.ckpt"


def ends_epoch(trainer: Trainer) -> bool:
    """Say whether a step is the last one of an epoch that has others: Lightning does not count it when it goes on."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached() and trainer.num_training_batches > 1


def _flush(trainer: Trainer) -> None:
    for logger in trainer.loggers:
        logger.save()


def _dry(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
