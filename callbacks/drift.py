"""Warns when the head drifts: thoughts earn more and more, and people agree with the rewards less and less."""

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

    Each validation is compared with the one of the highest accuracy so far. Its rollout reward is the mean over all
    thoughts, failed ones left out, of the training batches since the validation before it, on all devices. The drop is
    the best accuracy minus that of now, 0 at a new best.

    Args:
        monitor: The accuracy that must not fall.
        tolerance: A drop of more than this is worth a warning, and each further drop of more than this another one.
        rise: How much the rollout reward must have risen; if it has not, something else than drift is wrong.
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
        """Add up the rollout rewards; the sums are the same on every rank, so that one rank's state is that of all."""
        rewards = outputs["rollouts"].rewards
        sums = torch.stack([rewards.nansum(), (~rewards.isnan()).sum()])
        total, count = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self._total += total
        self._count += count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the best validation so far.

        Raises:
            ValueError: If validation has not logged the accuracy.
        """
        # Not in on_validation_epoch_end: there, a callback still sees the metrics of the validation before.
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        now = _Validation(trainer.global_step, self._accuracy(trainer), self._take_mean())
        if self._best is None or now.accuracy > self._best.accuracy:
            self._best, self._warned_drop = now, 0.0
        drop = self._best.accuracy - now.accuracy
        # A module cannot log here. The step is the one that Lightning gives to what it logs in validation.
        for logger in trainer.loggers:
            logger.log_metrics({DROP: drop}, trainer.fit_loop.total_batch_idx)
        risen = now.rollout_reward - self._best.rollout_reward > self.rise
        if risen and drop > self._warned_drop + self.tolerance:
            self._warned_drop = drop
            rank_zero_warn(_message(self.monitor, self._best, now))

    def state_dict(self) -> dict[str, Any]:
        """Remember the best, what was warned of, and the rewards since the last validation."""
        return {
            "best": self._best and asdict(self._best),
            "warned_drop": self._warned_drop,
            "total": self._total,
            "count": self._count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._best = state_dict["best"] and _Validation(**state_dict["best"])
        self._warned_drop = state_dict["warned_drop"]
        self._total, self._count = state_dict["total"], state_dict["count"]

    def _accuracy(self, trainer: Trainer) -> float:
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"DriftWarning watches {self.monitor!r}, and validation logged {sorted(trainer.callback_metrics)}: set "
                "monitor to an accuracy among them"
            )
        return float(trainer.callback_metrics[self.monitor])

    def _take_mean(self) -> float:
        """Return the mean rollout reward since the last call; nan if there was none."""
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
        "model.calibration_weight, lower model.learning_rates, or stop and take export/best"
    )
