"""What the supervised stages share: one loss a batch, whose optimizer steps Lightning takes, clipped or skipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from descore.inputs.settings import ModelSettings
from descore.losses.pair_losses import mean_over_usable
from descore.model.reward_model import RewardModel
from descore.modules.options import Optimization
from descore.modules.system import RewardSystem
from descore.objectives.kept_step import KeptStep, KeptVideo
from descore.types import Pair, PairBatch


class SupervisedSystem(RewardSystem):
    """A reward model in supervised training.

    Args:
        settings: Settings of the model, among them the backbone that it starts from.
        optimization: What trains, and how.
        own_thought_pairs: Validation pairs per table and rank for which the model writes its own thoughts.
        seed: Seed of the new head, and of what a stage draws.
    """

    stage: ClassVar[Literal["cold_start", "checklist", "choice"]]
    """Stage that a kept step names."""

    def __init__(
        self, settings: ModelSettings, *, optimization: Optimization, own_thought_pairs: int = 0, seed: int = 0
    ) -> None:
        build = partial(RewardModel.create, settings, seed=seed)
        super().__init__(build, optimization=optimization, own_thought_pairs=own_thought_pairs)
        self.settings = settings
        self.seed = seed
        self._loss = torch.zeros(())
        """Loss of the optimizer step so far."""
        self._seen: list[tuple[Pair, tuple[KeptVideo, KeptVideo]]] = []
        """Pairs of the optimizer step so far."""

    def objective_options(self) -> Mapping[str, Any]:
        """Return the options of the objective, for a step that is kept."""
        raise NotImplementedError

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; a step that is not finite loses its gradients, so that the optimizer moves nothing."""
        norm = self.sharding.clip(self.optimization.gradient_clip or math.inf)
        skipped = self.skips(self._loss, norm, self._describe_step)
        if skipped:
            optimizer.zero_grad()
        self.log("train/skipped_share", float(skipped))
        self._loss, self._seen = torch.zeros((), device=self.device), []

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm of each part."""
        if self.logs_this_step:
            self.log_dict(self.gradient_norms())

    def _finish(self, loss: Tensor, batch: PairBatch) -> Tensor:
        """Log the loss of a batch, and remember both for the case that the step is not finite."""
        self._log("loss", loss, prog_bar=True)
        self._loss = self._loss + loss.detach()
        videos: Sequence[KeptVideo] = [KeptVideo(thoughts) for thoughts in batch.thoughts]
        num_pairs = len(batch.pairs)
        self._seen += zip(batch.pairs, zip(videos[:num_pairs], videos[num_pairs:], strict=True), strict=True)
        return loss

    def _describe_step(self) -> KeptStep:
        pairs, videos = zip(*self._seen, strict=True)
        precision = str(self.trainer.precision)
        return KeptStep(self.stage, self.global_step, precision, self.objective_options(), {}, pairs, videos)

    def _mean(self, values: Tensor, usable: Tensor) -> Tensor:
        """Share of this rank in a mean over the usable values of all ranks, which average their gradients."""
        return mean_over_usable(values, usable, self.mean_over_ranks)

    def _log(self, name: str, share: Tensor, *, prog_bar: bool = False) -> None:
        """Log the mean that ranks have shares in."""
        self.log(f"train/{name}", share.detach(), prog_bar=prog_bar, sync_dist=True)
