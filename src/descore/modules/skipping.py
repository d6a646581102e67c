"""Steps whose loss or gradient is not finite: skipped, counted and kept for replay; too many in a row end the run."""

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
"""Largest number of skipped steps that a run keeps; each takes as much disk space as an export."""


class Skipping:
    """Decides whether a step is skipped; all ranks decide alike.

    The first skipped step in a row is kept in `<run>/skipped/step-<n>/`, with the model as it was, for
    `descore replay`.

    Args:
        max_skipped: Number of steps in a row that may be skipped; one more fails the run.
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
        """Return whether a step must be skipped.

        Args:
            trainer: Trainer of the run.
            loss: Loss of the step, the same on every rank.
            norm: Norm of its gradient, the same on every rank.
            full_model: Returns the full model on rank 0, None on the others; every rank calls it.
            describe: Returns the step as this rank saw it.

        Raises:
            FloatingPointError: If more than `max_skipped` steps in a row are skipped.
        """
        if bool(norm.isfinite() & loss.isfinite()):
            self.num_in_a_row = 0
            return False
        self.num_in_a_row += 1
        step = describe()
        names = ", ".join(pair.id for pair in step.pairs)
        rank_zero_warn(
            f"step {trainer.global_step} is skipped: its loss is {loss} and its gradient norm {norm}; it had the pairs "
            f"{names}{' and those of other ranks' if trainer.world_size > 1 else ''}"
        )
        if self.num_in_a_row == 1 and self._num_kept < MAX_KEPT:
            self._keep(trainer, full_model(), step)
        if self.num_in_a_row > self.max_skipped:
            raise FloatingPointError(
                f"{self.num_in_a_row} steps in a row had a loss or gradient that is not finite, the last one "
                f"loss {loss} and gradient norm {norm}: look at them with descore replay, or resume from an "
                "earlier checkpoint with a lower learning rate"
            )
        return True

    def _keep(self, trainer: Trainer, model: RewardModel | None, step: KeptStep) -> None:
        self._num_kept += 1
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "skipped" / f"step-{step.step}"
        step.write(folder / f"rank-{trainer.global_rank}.json")
        if model is not None:
            save(model, folder / MODEL)
        rank_zero_warn(f"the step is kept: descore replay {folder}")
