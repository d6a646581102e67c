"""Steps whose loss or gradient is not finite: not taken, counted, kept to be looked at; too many end the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from descore.model.export import save
from descore.model.reward_model import RewardModel
from descore.objectives.kept_step import MODEL, KeptStep

MAX_KEPT = 3
"""Skipped steps that a run keeps; each takes as much room as an export."""


class Skipping:
    """Decides whether a step is taken; all processes decide alike.

    The first of some skipped steps in a row is kept in `<run>/skipped/step-<n>/`, with the model as it was, for
    `descore replay`.

    Args:
        max_skipped: Steps in a row that may be skipped before the run fails.
    """

    def __init__(self, max_skipped: int) -> None:
        self.max_skipped = max_skipped
        self.num_in_a_row = 0
        self._num_kept = 0

    def __call__(
        self,
        trainer: Trainer,
        loss: Tensor,
        norm: Tensor,
        full_model: Callable[[], RewardModel | None],
        describe: Callable[[], KeptStep],
    ) -> bool:
        """Say whether a step is not to be taken.

        Args:
            trainer: The trainer.
            loss: Loss of the step, the same on every process.
            norm: Norm of its gradient, the same on every process.
            full_model: Gives the model to the first process; every process calls it.
            describe: Gives what this process had in the step.

        Raises:
            FloatingPointError: If more steps in a row are skipped than may be.
        """
        if bool(norm.isfinite() & loss.isfinite()):
            self.num_in_a_row = 0
            return False
        self.num_in_a_row += 1
        step = describe()
        names = ", ".join(pair.id for pair in step.pairs)
        rank_zero_warn(
            f"step {trainer.global_step} is skipped: its loss is {loss} and its gradient norm {norm}; it had the pairs "
            f"{names}{' and those of other processes' if trainer.world_size > 1 else ''}"
        )
        if self.num_in_a_row == 1 and self._num_kept < MAX_KEPT:
            self._keep(trainer, full_model(), step)
        if self.num_in_a_row > self.max_skipped:
            raise FloatingPointError(
                f"{self.num_in_a_row} steps in a row had a loss or gradient that is not finite, the last one "
                f"loss {loss} and gradient norm {norm}: look at them with descore replay, or go on from an earlier "
                "checkpoint with a lower learning rate"
            )
        return True

    def _keep(self, trainer: Trainer, model: RewardModel | None, step: KeptStep) -> None:
        self._num_kept += 1
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "skipped" / f"step-{step.step}"
        step.write(folder / f"rank-{trainer.global_rank}.json")
        if model is not None:
            save(model, folder / MODEL)
        rank_zero_warn(f"the step is kept: descore replay {folder}")
