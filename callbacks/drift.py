"""Warning against drift of the head: the rollout reward rises while the rewards agree less and less with people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from descore.types import PairBatch

DROP = "val/accuracy_drop"


class DriftWarning(Callback):
    """Warns when validation accuracy falls while the rollout reward rises, and logs `val/accuracy_drop`.

    Each validation is compared with the one of the highest accuracy so far. `val/accuracy_drop` is the highest accuracy
    minus the current one, and 0 at a new best. The rollout reward of a validation is the mean over all thoughts of the
    training batches since the previous validation, on all ranks and without failed thoughts.

    Args:
        monitor: Name of the logged accuracy that must not fall.
        tolerance: Drop in accuracy, 0 to 1, above which the callback warns; it warns again after each further drop by
            as much.
        rise: Rise of the rollout reward above which a drop counts as drift; without such a rise it has another cause.
    """

    def __init__(self, monitor: str = "val/preference_accuracy", tolerance: float = 0.05, rise: float = 0.02) -> None:
        self.monitor = monitor
        self.tolerance = tolerance
        self.rise = rise
        self._total = self._count = 0.0
        self._best: _Validation | None = None
        self._warned_drop = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        """Sum the rollout rewards over all ranks, so that every rank has the same state to save."""
        rewards = outputs["rollouts"].rewards
        sums = torch.stack([rewards.nansum(), (~rewards.isnan()).sum()])
        total, count = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self._total += total
        self._count += count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the validation with the best one so far, and warn of drift.

        Raises:
            ValueError: If validation has not logged the accuracy.
        """
        # Not in on_validation_epoch_end: there, callbacks still see the metrics of the previous validation.
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        now = _Validation(trainer.global_step, self._accuracy(trainer), self._take_mean())
        if self._best is None or now.accuracy > self._best.accuracy:
            self._best, self._warned_drop = now, 0.0
        drop = self._best.accuracy - now.accuracy
        # A module cannot log in this hook. total_batch_idx is the step that Lightning logs validation metrics at.
        for logger in trainer.loggers:
            logger.log_metrics({DROP: drop}, trainer.fit_loop.total_batch_idx)
        risen = now.rollout_reward - self._best.rollout_reward > self.rise
        if risen and drop > self._warned_drop + self.tolerance:
            self._warned_drop = drop
            rank_zero_warn(_message(self.monitor, self._best, now))

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation, the drop last warned of, and the sums of rewards since the last validation."""
        return {
            "best": self._best and asdict(self._best),
            "warned_drop": self._warned_drop,
            "total": self._total,
            "count": self._count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of an earlier run."""
        self._best = state_dict["best"] and _Validation(**state_dict["best"])
        self._warned_drop = state_dict["warned_drop"]
        self._total, self._count = state_dict["total"], state_dict["count"]

    def _accuracy(self, trainer: Trainer) -> float:
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"DriftWarning watches {self.monitor!r}, but validation logged {sorted(trainer.callback_metrics)}; set "
                "its monitor to one of these accuracies"
            )
        return float(trainer.callback_metrics[self.monitor])

    def _take_mean(self) -> float:
        """Return the mean rollout reward since the last call, and reset the sums; nan if there was no reward."""
        mean = self._total / self._count if self._count else math.nan
        self._total = self._count = 0.0
        return mean


@dataclass(frozen=True, slots=True)
class _Validation:
    """One validation: its accuracy, and the mean rollout reward of the training batches before it."""

    step: int
    accuracy: float
    rollout_reward: float


def _message(monitor: str, best: _Validation, now: _Validation) -> str:
    return (
        f"the head drifts: {monitor} fell from {best.accuracy:.3f} at step {best.step} to {now.accuracy:.3f} at step "
        f"{now.step}, while the rollout reward rose from {best.rollout_reward:.3f} to {now.rollout_reward:.3f}; raise "
        "--model.weights.calibration, lower --model.optimization.learning_rates, or stop and take export/best"
    )
