"""Export of the model during training: at every new best of a metric, and at the end of fit."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacks.tensorboard import reward_names
from descore.model.export import RewardStatistics, save


class ExportModel(Callback):
    """Writes `<run>/export/last` at the end of fit and `<run>/export/best` at every new best of a metric.

    Nan is the worst value, as for ModelCheckpoint: the first validation gives a `best`, and any number is better. A run
    that ends without a number says what its `best` is, or why there is none. A fast_dev_run leaves neither.

    Args:
        monitor: Name of the logged metric whose highest value is exported as `best`.
        weights: "merged" writes the whole backbone with the adapters added to its layers. "adapter" writes only what
            was trained: a smaller folder, which needs the original backbone to be loaded.
        folder: Folder that gets `best` and `last`; `export` in the folder of the run if not given.
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
        self.best: float | None = None
        self.calibration: RewardStatistics | None = None
        self._exported = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the model as `best` if the metric has a new highest value."""
        if trainer.sanity_checking:
            return
        self.calibration = _calibration(trainer, reward_names(pl_module))
        if self.monitor not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[self.monitor])
        value = -math.inf if math.isnan(value) else value
        if self.best is None or value > self.best:
            self.best = value
            self._save(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the model as `last`."""
        self._exported = True
        if path := self._save(trainer, pl_module, "last"):
            self._explain_best(trainer)
            model: Any = pl_module.model
            pairwise = model.settings.is_pairwise
            said = "Compare two videos" if pairwise else "Score a video"
            rank_zero_info(f"Exported to {path}. {said}: {_example(path, trainer, pairwise=pairwise)}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export a resumed run that had been killed between its last step and its export.

        Lightning calls no other hook of a run that resumes with no step left.
        """
        if not self._exported:
            pl_module.to(trainer.strategy.root_device)
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value of the metric and the reward statistics."""
        return {"best": self.best, "calibration": self.calibration and asdict(self.calibration)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of an earlier run."""
        self.best = state_dict["best"]
        self.calibration = state_dict["calibration"] and RewardStatistics(**state_dict["calibration"])

    def _explain_best(self, trainer: Trainer) -> None:
        measured = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
        if self.best is None and measured:
            rank_zero_warn(
                f"there is no export/best: {self.monitor} was never measured, and of the validation was logged: "
                f"{', '.join(measured)}. Set monitor of callbacks.export.ExportModel to one of these"
            )
        elif self.best == -math.inf:
            rank_zero_warn(
                f"export/best is the model after its first validation: {self.monitor} was nan in every one, since no "
                "pair was decided. Use export/last"
            )

    def _save(self, trainer: Trainer, pl_module: LightningModule, name: str) -> Path | None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        path = Path(self.folder or trainer.log_dir or ".") / ("export" if self.folder is None else "") / name
        system: Any = pl_module
        model = system.full_model()
        if trainer.is_global_zero:
            save(model, path, weights=self.weights, calibration=self.calibration)
        trainer.strategy.barrier("export")
        return path


def _example(path: Path, trainer: Trainer, *, pairwise: bool) -> str:
    """Return a command that scores a video of the run, or compares two, as it can be typed here."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    tables = [*getattr(data, "val_pairs", {}).values(), getattr(data, "train_pairs", ())]
    pair = next((table[0] for table in tables if len(table)), None)
    prompt, *videos = (pair.prompt, pair.a.video, pair.b.video) if pair else ("...", "video.mp4", "other.mp4")
    beside = Path(sys.executable).with_name("descore")
    command = "descore" if shutil.which("descore") or not beside.exists() else os.path.relpath(beside)
    judge, shown = ("rank", videos) if pairwise else ("score", videos[:1])
    return shlex.join([command, judge, "--model", str(path), "--prompt", prompt, *shown])


def _calibration(trainer: Trainer, names: Sequence[str]) -> RewardStatistics | None:
    """Return the reward statistics of the first validation table; None if it was not validated, or a reward is nan."""
    metrics = trainer.callback_metrics
    endings = [f"/{name}" for name in names] if len(names) > 1 else [""]
    if f"val/reward_mean{endings[0]}" not in metrics:
        return None
    mean, std = (tuple(float(metrics[f"val/reward_{kind}{end}"]) for end in endings) for kind in ("mean", "std"))
    return RewardStatistics(mean, std) if all(map(math.isfinite, (*mean, *std))) else None
