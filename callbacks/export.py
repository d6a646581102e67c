"""Writes the exported folder: at every new best headline, and at the end of fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from descore.export import Calibration, save


class ExportModel(Callback):
    """Writes `<run>/export/last` at the end of fit and `<run>/export/best` at every new best of a metric.

    Args:
        monitor: The metric whose best is exported, the higher the better.
        weights: "merged" writes the whole backbone; "adapter" only what was trained.
        folder: Where to write; the run's own folder if not given.
    """

    def __init__(
        self,
        monitor: str = "val/preference_accuracy",
        weights: Literal["merged", "adapter"] = "merged",
        folder: str | None = None,
    ) -> None:
        self.monitor = monitor
        self.weights = weights
        self.folder = folder
        self.best = -torch.inf

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export a new best."""
        value = float(trainer.callback_metrics.get(self.monitor, torch.nan))
        if not trainer.sanity_checking and value > self.best:
            self.best = value
            self._save(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the last state."""
        path = self._save(trainer, pl_module, "last")
        rank_zero_info(f"Exported to {path}. Score a video: descore score --model {path} --prompt '...' video.mp4")

    def state_dict(self) -> dict[str, Any]:
        """Remember the best across a resume."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best so far."""
        self.best = state_dict["best"]

    def _save(self, trainer: Trainer, pl_module: LightningModule, name: str) -> Path:
        path = Path(self.folder or trainer.log_dir or ".") / ("export" if self.folder is None else "") / name
        system: Any = pl_module
        model = system.whole_model()
        if trainer.is_global_zero:
            save(model, path, weights=self.weights, calibration=_calibration(trainer, model.settings.reward_names))
        trainer.strategy.barrier("export")
        return path


def _calibration(trainer: Trainer, names: Sequence[str]) -> Calibration | None:
    """Mean and spread of each reward on the first validation table, once it was validated."""
    metrics = trainer.callback_metrics
    endings = [f"/{name}" for name in names] if len(names) > 1 else [""]
    if f"val/reward_mean{endings[0]}" not in metrics:
        return None
    mean, std = (tuple(float(metrics[f"val/reward_{kind}{end}"]) for end in endings) for kind in ("mean", "std"))
    return Calibration(mean, std)
