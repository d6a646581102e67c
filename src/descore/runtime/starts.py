"""What a run starts from, and what a start leaves that ends before its first step: nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from descore.atomic import remove
from descore.inputs.backbone import resolve
from descore.model.description import describe
from descore.model.finished import find_export, is_export


class NothingBeforeTheFirstStep(Callback):
    """Removes the new folder of a run that ends before its first training batch is done.

    Args:
        folder: Folder of the run, which does not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._first_of_its_run = not folder.parent.exists()
        self._started = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the folder from now on."""
        self._started = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the folder, once no logger writes to it any more."""
        if self._started or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.finalize("failed")
        remove(self.folder)
        if self._first_of_its_run:
            with suppress(OSError):  # something else is in it by now
                self.folder.parent.rmdir()


def find_start(pretrained: str, checkpoint: Path | None, backbone: str | None = None) -> Path:
    """Find the export that stage 2 starts from: a run that is resumed starts from what it started from.

    Args:
        pretrained: Exported folder, hub id, or a run of stage 1, of which the newest finished export is taken.
        checkpoint: Checkpoint to resume from; None for a new run.
        backbone: Backbone of an adapter, if it is not where the exported folder says.

    Raises:
        ModelError: If there is no such export.
    """
    if checkpoint is not None and not is_export(Path(pretrained)):
        pretrained = _of_the_run(checkpoint) or pretrained
    found = find_export(pretrained)
    describe(found, backbone)
    return found


def check_backbone(name: str) -> None:
    """Check that a backbone is there, or download its configuration.

    Raises:
        ValueError: If it cannot be found.
    """
    resolve(name, metadata_only=True)


def _of_the_run(checkpoint: Path) -> str | None:
    """Return what the run of a checkpoint started from, by its config.yaml."""
    file = checkpoint.absolute().parents[1] / "config.yaml"
    found = OmegaConf.select(OmegaConf.load(file), "model.init_args.pretrained") if file.is_file() else None
    return None if found is None else str(found)
