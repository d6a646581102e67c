"""The trainer of a run: one folder for all that the run leaves, whatever its logger."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer


class RunTrainer(Trainer):
    """Lightning's Trainer, whose `log_dir` is the folder that ModelCheckpoint saves under, for any logger.

    Lightning's own is that folder for TensorBoard and CSV files; all runs of another logger would share one.
    """

    @property
    def log_dir(self) -> str | None:
        """Folder of the run; every rank calls it."""
        logger = self.logger
        if logger is None or self.fast_dev_run:  # type: ignore[attr-defined]
            folder: str | None = self.default_root_dir
        elif found := getattr(logger, "log_dir", None):
            folder = str(found)
        else:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            folder = str(Path(logger.save_dir or self.default_root_dir, str(logger.name), version))
        return self.strategy.broadcast(folder)
