"""The checkpoint `last.ckpt`, from which a killed run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from descore.atomic import check_writable


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every few optimizer steps, after every validation, and at the end of training.

    Lightning's own `save_last` writes it only together with a new best. Here a resumed run loses no more than the steps
    after the checkpoint: the loggers write everything before the checkpoint appears. Lightning cannot resume exactly
    from two kinds of steps, so these are not saved on their own. A step before a validation is saved after the
    validation, which a resumed run would skip. The last step of an epoch is saved with the next step, since a resumed
    run would not count the epoch.

    Args:
        every_n_steps: Number of optimizer steps between checkpoints, and so the most that a kill can lose. A lower
            number spends more time on writing.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        self.every_n_steps = every_n_steps
        self._saved_step = 0
        self._pending: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before the first step that the folder of the checkpoint can be written to.

        Raises:
            OSError: If it cannot.
        """
        if stage == "fit" and trainer.is_global_zero and not _dry(trainer):
            check_writable(last_checkpoint(trainer).parent)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting optimizer steps at the current one."""
        self._saved_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the state taken after the previous step, now that Lightning has logged that step."""
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the state if it is due and the step is one to resume from."""
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        waits = ends_epoch(trainer) or loop._should_check_val_fx(fetcher)  # type: ignore[arg-type]
        if trainer.global_step >= self._saved_step + self.every_n_steps and not waits:
            self._take(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state after a validation, with its results."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._take(trainer)
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state after the last step."""
        if trainer.global_step > self._saved_step:
            self._take(trainer)
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Flush the loggers, so that no checkpoint, of this callback or another, is ahead of the logs."""
        _flush(trainer)

    def _take(self, trainer: Trainer) -> None:
        if not (_dry(trainer) or trainer.fit_loop._should_accumulate()):  # a checkpoint holds no gradients
            # The weights and optimizer moments are not copies: they have to be written before the next step.
            self._pending = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            self._saved_step = trainer.global_step

    def _write(self, trainer: Trainer) -> None:
        if self._pending is not None:
            _flush(trainer)
            trainer.strategy.save_checkpoint(self._pending, last_checkpoint(trainer))
            trainer.strategy.barrier("last checkpoint")
            self._pending = None


def last_checkpoint(trainer: Trainer) -> Path:
    """Return the path of `last.ckpt`, in the folder of the best checkpoint."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath:
        return Path(callback.dirpath) / "last.ckpt"
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints/last.ckpt"


def ends_epoch(trainer: Trainer) -> bool:
    """Return whether a step is the last of an epoch with several steps.

    Lightning would not count the epoch in a run that resumes from it.
    """
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached() and trainer.num_training_batches > 1


def _flush(trainer: Trainer) -> None:
    for logger in trainer.loggers:
        logger.save()


def _dry(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
