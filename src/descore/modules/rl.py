"""Stage 2, dual-objective reinforcement learning: better thoughts, and a head that stays calibrated on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from descore.inputs.collate import PairCollator, Read
from descore.losses.policy import KLEstimator
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.modules.options import Batching, Optimization
from descore.modules.readings import ChoiceReader, GivenReader
from descore.modules.step_metrics import Means, Stopwatch, count_rollouts
from descore.modules.system import RewardSystem
from descore.modules.update import Ranks, Update, split, split_on_ranks
from descore.objectives.algorithms import AlgorithmOptions
from descore.objectives.dual import DualObjective, LossWeights
from descore.objectives.kept_step import KeptStep, keep_video
from descore.rewards import NEED_SCORES, Rubric
from descore.runtime.sharding import Sharding, loading
from descore.thinking.rollouts import Rollouts, RolloutSettings, roll_out
from descore.types import Pair, PairBatch


class RLModule(RewardSystem):
    """Improves the thoughts of a cold-started model, and keeps its head calibrated on them.

    A model that compares two videos thinks about both, in both orders; it has no head to calibrate.

    Args:
        pretrained: Folder that stage 1 exported, or a hub id. How videos are read comes with it.
        sampling: How the group of thoughts of each video is sampled.
        rubric: Rollout reward of a thought: the rules that grade it, and their weights.
        algorithm: Policy-gradient algorithm.
        weights: Weights of the losses.
        kl_estimator: Estimator of the KL divergence to the stage-1 model.
        batching: How a rollout batch (data.batch_size pairs) is worked on.
        optimization: What trains, and how.
        own_thought_pairs: Validation pairs per table and rank for which the model writes its own thoughts, the
            headline.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Raises:
        ValueError: If nothing could be learnt, since all thoughts of a group would be alike; or if no validation pair
            would give the headline.
    """

    def __init__(
        self,
        pretrained: str,
        sampling: Sampling = Sampling(num_thoughts=8, temperature=1.0),
        rubric: Rubric = Rubric(),
        algorithm: AlgorithmOptions = AlgorithmOptions(),
        weights: LossWeights = LossWeights(),
        kl_estimator: KLEstimator = "low_var",
        batching: Batching = Batching(),
        optimization: Optimization = Optimization({"language": 1e-6, "query": 1e-6, "head": 1e-6}),
        own_thought_pairs: int = 64,
        backbone: str | None = None,
    ) -> None:
        _check_sampling(sampling)
        if own_thought_pairs < 1:
            raise ValueError(f"own_thought_pairs is {own_thought_pairs}; expected at least 1: they give the headline")
        super().__init__(
            partial(RewardModel.from_pretrained, pretrained, backbone=backbone),
            optimization=optimization,
            own_thought_pairs=own_thought_pairs,
        )
        self.automatic_optimization = False
        self.algorithm = algorithm.resolve()
        self.rollout_settings = RolloutSettings(
            sampling,
            rubric,
            self.algorithm.advantage,
            self.algorithm.resample,
            self.algorithm.outlier_stds,
            batching.think_videos,
        )
        self.weights = weights
        self.kl_estimator: KLEstimator = kl_estimator
        self.batching = batching
        parts = set(optimization.parts)
        self.look_once = not parts & {"vision", "merger"}
        self.copies_reference = weights.kl > 0 and bool(parts - {*optimization.lora.parts, "query", "head"})

    def configure_model(self) -> None:
        """Build the model, and keep a copy of it as the reference where the adapter alone does not tell them apart."""
        if hasattr(self, "model"):
            return
        self._check_precision()
        with loading(self._trainer.strategy if self._trainer is not None else None) as lay_out:
            model = self._make()
            if self.copies_reference:
                copy = deepcopy(model).requires_grad_(False).to(self._frozen_dtype)
                self.reference_sharding: Sharding = lay_out(copy)
                self.reference = self.reference_sharding.model
            self.sharding = lay_out(model)
        self.model = self.sharding.model
        self._check_model()
        self._tell_what_trains()
        self.objective = DualObjective(self.algorithm, self.max_thought_tokens, self.kl_estimator, self.weights)

    def _check_model(self) -> None:
        pairwise = self.model.settings.is_pairwise
        self.rollout_settings.rubric.check(pairwise=pairwise)
        if pairwise and self.weights.calibration:
            raise ValueError(
                f"weights.calibration is {self.weights.calibration:g}, but this model compares two videos and has no "
                "reward to calibrate; expected 0"
            )
        if self.model.settings.tool is not None:
            raise ValueError(
                "stage 2 samples thoughts in one turn, but this model asks for frames in several; pass one trained "
                "without a tool"
            )
        if not self.model.settings.thoughts:
            raise ValueError(
                "stage 2 trains thoughts, but this model was trained with model.thoughts=false; pass one trained with "
                "thoughts"
            )
        if self.max_thought_tokens > (limit := self.model.settings.max_thought_tokens):
            raise ValueError(
                f"sampling.max_tokens is {self.max_thought_tokens}, but this model cuts thoughts at {limit} tokens "
                "when it scores; expected at most that"
            )

    @property
    def max_thought_tokens(self) -> int:
        """Length limit of a thought in tokens."""
        return self.rollout_settings.sampling.max_tokens or self.model.settings.max_thought_tokens

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """Training reads prefixes only; validation scores each video with its thought and without."""
        return PairCollator(
            self.model.processor,
            thoughts=not training,
            masking="sampled" if training else "both",
            keep_frames=not training,
            read=read,
        )

    def given_reader(self) -> GivenReader:
        """Read the head, or the choice of a model that compares two videos."""
        return ChoiceReader(thoughts=True) if self.model.settings.is_pairwise else super().given_reader()

    def on_fit_start(self) -> None:
        """Check before the first step that every pair can be graded."""
        needing = ", ".join(sorted(NEED_SCORES & self.rollout_settings.rubric.weights.keys()))
        if not needing or self.model.settings.is_pairwise:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        num_ungraded, names = data.ungraded()
        if num_ungraded:
            raise ValueError(
                f"the {needing} reward needs the annotated scores of both videos, and {num_ungraded} of "
                f"{len(data.train_pairs)} training pairs lack them, such as {', '.join(names)}: give the table "
                f"scores_a and scores_b, or leave {needing} out of --model.rubric.weights"
            )

    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        """Roll out a batch of pairs, then take one optimizer step per mini-batch of them."""
        self.means, self.clock = Means(), Stopwatch(self.device)
        rollouts = self._roll_out(batch)
        reference = self._reference_logprobs(rollouts) if self.weights.kl else None
        self._update(rollouts, reference)
        self._log(rollouts)
        return {"rollouts": rollouts}

    def _roll_out(self, batch: PairBatch) -> Rollouts:
        with self.clock("think"), self.sharding.gathered():
            key = str(self.current_epoch)
            rollouts = roll_out(self.model, batch, self.rollout_settings, key=key, look_once=self.look_once)
        self.clock.count("think", int(sum(len(old) for group in rollouts.groups for old in group.logprobs)))
        return rollouts

    @torch.no_grad()
    def _reference_logprobs(self, rollouts: Rollouts) -> Tensor:
        """Log-probabilities of all thoughts under the stage-1 model, `[V, n, T]`."""
        logprobs = torch.zeros_like(rollouts.old_logprobs)
        with self.clock("reference"), self._reference() as model:
            for pairs in split(range(len(rollouts.pairs)), self.batching.micro_batch_pairs):
                branches, seen = rollouts.pack(self.model.processor, pairs)
                sampling = self.rollout_settings.sampling
                forward = model(branches, with_logprobs=True, sampling=sampling, seen=seen)
                logprobs[rollouts.videos(pairs)] = rollouts.by_token(forward.logprobs, pairs)
                self.clock.count("reference", branches.layout.num_tokens)
        return logprobs

    @contextmanager
    def _reference(self) -> Iterator[RewardModel]:
        """The stage-1 model with its weights gathered: a frozen copy, or the model itself with its adapter off."""
        if self.copies_reference:
            with self.reference_sharding.gathered():
                yield self.reference
            return
        # Gathering comes first: FSDP2 notes then what trains, and an adapter that is off does not. Without an adapter,
        # nothing that a thought depends on is trained.
        with self.sharding.gathered(), getattr(self.model.network, "disable_adapter", nullcontext)():
            yield self.model

    def _update(self, rollouts: Rollouts, reference: Tensor | None) -> None:
        """Take the optimizer steps of a rollout batch."""
        ranks, batching = Ranks(self.mean_over_ranks, self._max_over_ranks), self.batching
        update = Update(
            self.sharding,
            self.objective,
            self.rollout_settings.sampling,
            rollouts,
            reference,
            batching.micro_batch_pairs,
            ranks,
            self.manual_backward,
            self.means,
            self.clock,
        )
        log_norms = self.logs_this_step
        for _ in range(batching.update_epochs):
            for pairs in split_on_ranks(range(len(rollouts.pairs)), batching.mini_batch_pairs, ranks):
                loss = update(pairs, log_norms=log_norms)
                if log_norms:
                    self.means.add(self.gradient_norms())
                self._step(loss, partial(self._describe_step, rollouts, pairs, reference))

    def _step(self, loss: Tensor, describe: Callable[[], KeptStep]) -> None:
        """Move the weights, unless loss or gradient is not finite; every rank decides the same."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        norm = self.sharding.clip(self.optimization.gradient_clip or math.inf)
        skipped = self.skips(loss, norm, describe)
        if not skipped:
            optimizer.step()
            scheduler.step()
        optimizer.zero_grad()
        self.means.add({"train/skipped_share": float(skipped)})

    def _describe_step(self, rollouts: Rollouts, pairs: list[int], reference: Tensor | None) -> KeptStep:
        kept = tuple(rollouts.pairs[pair] for pair in pairs)
        videos = [keep_video(rollouts, video, reference) for video in rollouts.videos(pairs)]
        both = tuple(zip(videos[: len(pairs)], videos[len(pairs) :], strict=True))
        options, sampling = asdict(self.objective), asdict(self.rollout_settings.sampling)
        return KeptStep("rl", self.global_step, str(self.trainer.precision), options, sampling, kept, both)

    def _log(self, rollouts: Rollouts) -> None:
        """Log the means of the step over all ranks, and the times of its phases."""
        count_rollouts(self.means, rollouts, head=self.model.settings.reward_from == "head")
        values = self.means.compute(self.device, self.mean_over_ranks) | self.clock.compute()
        for name, value in values.items():
            self.log(
                name, value, prog_bar=name in {"rollout/reward", "train/policy_loss"}, batch_size=len(rollouts.pairs)
            )

    def _max_over_ranks(self, value: Tensor) -> Tensor:
        return self.max_over_ranks(value.to(self.device))

    def _steps_of_batches(self, num_batches: int) -> list[int]:
        """Return the number of optimizer steps that each batch of an epoch takes: one per mini-batch and pass."""
        sizes: list[int] = self.trainer.datamodule.train_dataloader().batch_sizes()  # type: ignore[attr-defined]
        mini_batches = [len(split(range(size), self.batching.mini_batch_pairs)) for size in sizes[:num_batches]]
        return [self.batching.update_epochs * count for count in mini_batches]


def _check_sampling(sampling: Sampling) -> None:
    """Raise ValueError where the thoughts of a group cannot differ: their advantages would all be 0."""
    if sampling.num_thoughts < 2:
        raise ValueError(
            f"sampling.num_thoughts is {sampling.num_thoughts}; expected at least 2, since a thought is compared with "
            "the others about the same video"
        )
    if sampling.temperature == 0 or sampling.top_k == 1:
        raise ValueError(
            f"sampling.temperature is {sampling.temperature:g} and sampling.top_k {sampling.top_k}: all thoughts about "
            "a video would be alike, and nothing is learnt from equal thoughts; expected a temperature above 0, such "
            "as 1, and a top_k of 0 or above 1"
        )
