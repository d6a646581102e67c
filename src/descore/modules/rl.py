"""Stage 2, dual-objective reinforcement learning: better thoughts, and a head that stays calibrated on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from descore.advantages import AdvantageVariant
from descore.inputs.collate import PairCollator, Read
from descore.losses.policy import KLEstimator, PolicyVariant
from descore.losses.token_weights import Average
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.model.trainable import Part
from descore.modules.gradient_split import gradients_of_shards
from descore.modules.step_metrics import Means, Stopwatch, count_rollouts
from descore.modules.system import RewardSystem, Schedule
from descore.objectives.algorithms import ALGORITHMS, AlgorithmName
from descore.objectives.dual import DualObjective, Losses, Shares
from descore.objectives.kept_step import KeptStep, keep_video
from descore.rewards import NEED_SCORES, PUBLISHED_WEIGHTS, Rubric
from descore.runtime.sharding import clip_by_norm, gathered, is_sharded, takes_one_backward, total_norm
from descore.thinking.rollouts import Rollouts, RolloutSettings, roll_out
from descore.types import Pair, PairBatch


class RLModule(RewardSystem):
    """Improves the thoughts of a cold-started model, and keeps its head calibrated on them.

    Args:
        pretrained: Folder that stage 1 exported, or a hub id. How videos are read comes with it.
        num_thoughts: Thoughts of a group, sampled for each video.
        max_thought_tokens: A longer thought is cut there; the model's limit if not given.
        temperature: Divides the logits that thoughts are sampled from.
        top_p: Sample from the most probable tokens that together reach this probability; 1 from all.
        top_k: Sample from this many of the most probable tokens; 0 from all.
        rollout_rewards: Weights of the parts of a rollout reward: quality, agreement, format, length, or the dotted
            path of a function `f(text, truth, num_tokens) -> float`. A part with weight 0 is only shown.
        length_low: Number of tokens up to which the length reward is 0.
        length_high: Number of tokens from which it is 1.
        algorithm: Policy-gradient algorithm: sets advantage, policy, average, the clip bounds and resample.
        advantage: How a thought is compared with its group, if not as the algorithm does.
        policy: Policy loss of a token, if not the algorithm's.
        average: How tokens are averaged, if not as the algorithm does.
        clip_low: How far below 1 the ratio to the old probability may fall, if not the algorithm's.
        clip_high: How far above 1 it may rise, if not the algorithm's.
        clip_dual: Bound of the ratio where the advantage is negative, if not the algorithm's; .inf for none.
        resample: How often a group whose rollout rewards are all equal is sampled again, if not the algorithm's.
        policy_weight: Weight of the policy loss.
        kl_weight: Weight of the KL divergence to the stage-1 model; 0 spares its forward.
        kl_estimator: Estimator of that divergence.
        calibration_weight: Weight of the Bradley-Terry loss on the rewards of the sampled thoughts.
        update_epochs: Times that a rollout batch (data.batch_size pairs) is gone through.
        mini_batch_pairs: Pairs of one optimizer step and device; 0 takes the rollout batch at once.
        micro_batch_pairs: Pairs of one forward; their gradients add up to that of the mini-batch. 0 takes it at once.
        think_videos: Videos that are thought about at the same time; 0 takes all of the rollout batch.
        learning_rates: Learning rate by part: language, vision, merger, query, head, embedding. A part without one is
            frozen.
        lora_parts: Parts that train through LoRA instead of their own weights.
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of the adapters, divided by the rank.
        optimizer: Optimizer; its learning rate is replaced by that of each part.
        schedule: Course of the learning rates after the warm-up.
        warmup: Share of the steps that warm up.
        gradient_clip: Gradients with a larger norm are scaled down to it; 0 for no clipping. The trainer's own setting
            does not go with several optimizer steps a batch.
        max_skipped: Steps in a row without a finite loss and gradient that are skipped before the run fails.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        frozen_dtype: Precision that frozen weights are kept in; bfloat16 goes with trainer.precision bf16-mixed.
        own_thought_pairs: Validation pairs per table for which the model writes its own thoughts, the headline.
        seed: Of the sampled thoughts.
    """

    headline = "own_thought"

    def __init__(
        self,
        pretrained: str,
        num_thoughts: int = 8,
        max_thought_tokens: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        rollout_rewards: dict[str, float] | None = None,
        length_low: int = 500,
        length_high: int = 2000,
        algorithm: AlgorithmName = "descore",
        advantage: AdvantageVariant | None = None,
        policy: PolicyVariant | None = None,
        average: Average | None = None,
        clip_low: float | None = None,
        clip_high: float | None = None,
        clip_dual: float | None = None,
        resample: int | None = None,
        policy_weight: float = 1.0,
        kl_weight: float = 1e-5,
        kl_estimator: KLEstimator = "low_var",
        calibration_weight: float = 5e-3,
        update_epochs: int = 1,
        mini_batch_pairs: int = 0,
        micro_batch_pairs: int = 0,
        think_videos: int = 0,
        learning_rates: dict[Part, float] | None = None,
        lora_parts: list[Part] | None = None,
        lora_rank: int = 64,
        lora_alpha: int = 128,
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "constant_with_warmup",
        warmup: float = 0.05,
        gradient_clip: float = 1.0,
        max_skipped: int = 10,
        gradient_checkpointing: bool = False,
        frozen_dtype: Literal["float32", "bfloat16"] = "float32",
        own_thought_pairs: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(
            partial(RewardModel.from_pretrained, pretrained),
            learning_rates=learning_rates or {"language": 1e-6, "query": 1e-6, "head": 1e-6},
            lora_parts=lora_parts or [],
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            optimizer=optimizer,
            schedule=schedule,
            warmup=warmup,
            gradient_checkpointing=gradient_checkpointing,
            frozen_dtype=frozen_dtype,
            own_thought_pairs=own_thought_pairs,
            max_skipped=max_skipped,
            seed=seed,
        )
        if own_thought_pairs < 1:
            raise ValueError(f"own_thought_pairs is {own_thought_pairs}; expected at least 1: they give the headline")
        self.save_hyperparameters(ignore=["optimizer"])
        self.automatic_optimization = False
        own: dict[str, Any] = {
            "advantage": advantage,
            "policy": policy,
            "average": average,
            "clip_low": clip_low,
            "clip_high": clip_high,
            "clip_dual": clip_dual,
            "resample": resample,
        }
        self.algorithm = replace(ALGORITHMS[algorithm], **{k: v for k, v in own.items() if v is not None})
        self.rollout_settings = RolloutSettings(
            Sampling(num_thoughts, max_thought_tokens, temperature, top_p, top_k, seed),
            Rubric(rollout_rewards or PUBLISHED_WEIGHTS, length_low=length_low, length_high=length_high),
            self.algorithm.advantage,
            self.algorithm.resample,
            think_videos,
        )
        self.policy_weight = policy_weight
        self.kl_weight = kl_weight
        self.kl_estimator: KLEstimator = kl_estimator
        self.calibration_weight = calibration_weight
        self.update_epochs = update_epochs
        self.mini_batch_pairs = mini_batch_pairs
        self.micro_batch_pairs = micro_batch_pairs
        self.gradient_clip = gradient_clip or math.inf
        parts = {part for part, rate in self.learning_rates.items() if rate > 0}
        self.look_once = not parts & {"vision", "merger"}
        self.copies_reference = kl_weight > 0 and bool(parts - set(self.lora_parts) - {"query", "head"})

    def configure_model(self) -> None:
        """Build the model, and keep a copy of it as the reference where the adapter alone does not tell them apart."""
        if hasattr(self, "model"):
            return
        with self._sharding() as shard:
            model = self._make()
            if self.copies_reference:
                self.reference = shard(deepcopy(model).requires_grad_(False).to(self.frozen_dtype))
            self.model = shard(model)
        if not self.model.settings.thoughts:
            raise ValueError(
                "this model was trained without thoughts, and stage 2 trains them; expected one that thinks"
            )
        if self.max_thought_tokens > (limit := self.model.settings.max_thought_tokens):
            raise ValueError(
                f"max_thought_tokens is {self.max_thought_tokens}, but this model cuts thoughts at {limit} tokens when "
                "it scores; expected at most that"
            )
        self.objective = DualObjective(self.algorithm, self.max_thought_tokens, self.kl_estimator)

    @property
    def max_thought_tokens(self) -> int:
        """Tokens at which a thought is cut."""
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

    def on_fit_start(self) -> None:
        """Check before the first step that every pair can be graded."""
        needing = ", ".join(sorted(NEED_SCORES & self.rollout_settings.rubric.weights.keys()))
        if not needing:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        num_ungraded, names = data.ungraded()
        if num_ungraded:
            raise ValueError(
                f"the {needing} reward needs the annotated scores of both videos, and {num_ungraded} of "
                f"{len(data.train_pairs)} training pairs lack them, such as {', '.join(names)}: give the table "
                f"scores_a and scores_b, or leave {needing} out of model.rollout_rewards"
            )

    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        """Think about a batch of pairs, then take one optimizer step per mini-batch of them."""
        self.means, self.clock = Means(), Stopwatch(self.device)
        rollouts = self._roll_out(batch)
        reference = self._reference_logprobs(rollouts) if self.kl_weight else None
        separately = self.logs_this_step
        for _ in range(self.update_epochs):
            for pairs in self._split(range(len(batch.pairs)), self.mini_batch_pairs):
                self._update(rollouts, pairs, reference, separately=separately)
        count_rollouts(self.means, rollouts, head=self.model.settings.reward_from == "head")
        values = self.means.compute(self.device, self._mean_over_ranks) | self.clock.compute()
        for name, value in values.items():
            self.log(name, value, prog_bar=name == "rollout/reward", batch_size=len(batch.pairs))
        return {"rollouts": rollouts}

    def _roll_out(self, batch: PairBatch) -> Rollouts:
        with self.clock("think"), gathered(self.model):
            key = str(self.current_epoch)
            rollouts = roll_out(self.model, batch, self.rollout_settings, key=key, look_once=self.look_once)
        self.clock.count("think", int(sum(len(old) for group in rollouts.groups for old in group.logprobs)))
        return rollouts

    @torch.no_grad()
    def _reference_logprobs(self, rollouts: Rollouts) -> Tensor:
        """Log-probabilities of all thoughts under the stage-1 model, `[V, n, T]`."""
        logprobs = torch.zeros_like(rollouts.old_logprobs)
        with self.clock("reference"), self._reference() as reference, gathered(reference):
            for pairs in _split(range(len(rollouts.pairs)), self.micro_batch_pairs):
                branches, seen = rollouts.pack(self.model.processor, pairs)
                sampling = self.rollout_settings.sampling
                forward = reference(branches, with_logprobs=True, sampling=sampling, seen=seen)
                logprobs[rollouts.videos(pairs)] = rollouts.by_token(forward.logprobs, pairs)
                self.clock.count("reference", branches.layout.num_tokens)
        return logprobs

    @contextmanager
    def _reference(self) -> Iterator[RewardModel]:
        """The stage-1 model: a frozen copy, or the model itself with its adapter off."""
        if self.copies_reference:
            yield self.reference
        else:
            # Without an adapter, nothing that a thought depends on is trained.
            with getattr(self.model.network, "disable_adapter", nullcontext)():
                yield self.model

    def _update(self, rollouts: Rollouts, pairs: list[int], reference: Tensor | None, *, separately: bool) -> None:
        """Take one optimizer step on some pairs, whose gradients are gathered micro-batch by micro-batch."""
        shares = self.objective.shares(rollouts, pairs, self._mean_over_ranks)
        sums: dict[str, Tensor] = {}
        pieces = self._split(pairs, self.micro_batch_pairs)
        calibration = [torch.zeros_like(parameter) for parameter in self._trained()] if separately else []
        if apart := separately and takes_one_backward(self.model):
            calibration = self._calibration_gradients(rollouts, pieces, shares, reference)
        for some in pieces:
            losses = self._losses(rollouts, some, shares, reference)
            weighted = self.calibration_weight * losses.calibration
            total = self.policy_weight * losses.policy + self.kl_weight * losses.kl + weighted
            if separately and not apart:
                calibration = self._add_gradients(calibration, weighted)
            with self.clock("backward"):
                self.manual_backward(total)
            found = {"loss": total, "policy_loss": losses.policy, "kl_loss": losses.kl}
            for name, value in (found | {"calibration_loss": losses.calibration}).items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        self.means.add({f"train/{name}": value for name, value in sums.items()})
        if separately:
            self._log_gradients(calibration)
        self._step(sums["loss"], lambda: self._describe_step(rollouts, pairs, reference))

    def _losses(self, rollouts: Rollouts, pairs: list[int], shares: Shares, reference: Tensor | None) -> Losses:
        """Losses of a micro-batch, from one packed forward; without pairs, they are those of another pair times 0."""
        if not pairs:
            pairs, shares = [0], Shares(torch.zeros_like(shares.tokens), torch.zeros_like(shares.preference))
        branches, seen = rollouts.pack(self.model.processor, pairs)
        videos = rollouts.videos(pairs)
        with self.clock("forward"):
            sampling = self.rollout_settings.sampling
            forward = self.model(branches, with_logprobs=True, sampling=sampling, seen=seen)
        for phase in ("forward", "backward"):
            self.clock.count(phase, branches.layout.num_tokens)
        losses = self.objective(
            rollouts,
            pairs,
            shares,
            rollouts.by_token(forward.logprobs, pairs),
            forward.rewards.view(len(videos), -1, forward.rewards.shape[1]),
            None if reference is None else reference[videos],
        )
        named = {f"train/{name}": value for name, value in losses.metrics.items()}
        self.means.add(named, (shares.tokens[videos] > 0).sum())
        return losses

    def _step(self, loss: Tensor, describe: Callable[[], KeptStep]) -> None:
        """Move the weights, unless loss or gradient is not finite; every rank decides the same."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        norm = clip_by_norm(self.model, self.gradient_clip)
        skipped = self.skips(loss, norm, describe)
        if not skipped:
            optimizer.step()
            scheduler.step()
        optimizer.zero_grad()
        self.means.add({"train/skipped_share": float(skipped)})

    def _describe_step(self, rollouts: Rollouts, pairs: list[int], reference: Tensor | None) -> KeptStep:
        weights = {"policy": self.policy_weight, "kl": self.kl_weight, "calibration": self.calibration_weight}
        loss = {
            "algorithm": asdict(self.algorithm),
            "sampling": asdict(self.rollout_settings.sampling),
            "max_tokens": self.max_thought_tokens,
            "kl_estimator": self.kl_estimator,
            "weights": weights,
        }
        kept = tuple(rollouts.pairs[pair] for pair in pairs)
        videos = [keep_video(rollouts, video, reference) for video in rollouts.videos(pairs)]
        both = tuple(zip(videos[: len(pairs)], videos[len(pairs) :], strict=True))
        return KeptStep("rl", self.global_step, str(self.trainer.precision), loss, kept, both)

    def _calibration_gradients(
        self, rollouts: Rollouts, pieces: list[list[int]], shares: Shares, reference: Tensor | None
    ) -> list[Tensor]:
        """Gradients of the calibration loss, from forwards of their own."""
        for some in pieces:
            losses = self._losses(rollouts, some, shares, reference)
            with self.clock("backward"):
                self.manual_backward(self.calibration_weight * losses.calibration)
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._trained()]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        return found

    def _add_gradients(self, gradients: list[Tensor], loss: Tensor) -> list[Tensor]:
        """Add the gradients of one loss, without touching those of the parameters."""
        with self.clock("backward"):
            if is_sharded(self.model):
                found = gradients_of_shards(loss, self._trained())
            else:
                found = list(torch.autograd.grad(loss, self._trained(), retain_graph=True, allow_unused=True))
        return [old if new is None else old + new for old, new in zip(gradients, found, strict=True)]

    def _log_gradients(self, calibration: list[Tensor]) -> None:
        """Log the gradient norm of each part, of the calibration loss, and of what is left: policy loss and KL."""
        if not is_sharded(self.model):
            calibration = [self._mean_over_ranks(gradient) for gradient in calibration]
        found = zip(self._trained(), calibration, strict=True)
        policy = [own if p.grad is None else p.grad - own for p, own in found]
        norms = {"grad/policy": policy, "grad/calibration": calibration}
        self.means.add(self.gradient_norms())
        self.means.add({name: total_norm(self.model, gradients) for name, gradients in norms.items()})

    def _split(self, pairs: Sequence[int], size: int) -> list[list[int]]:
        """Split pairs into pieces of a size; a rank with fewer of them than another has empty ones at the end."""
        pieces = _split(pairs, size)
        count = int(self._over_ranks(torch.tensor(len(pieces), device=self.device), "max"))
        return pieces + [[]] * (count - len(pieces))

    def _steps_of_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        size: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        return super()._steps_of_epoch() * self.update_epochs * len(_split(range(size), self.mini_batch_pairs))


def _split(pairs: Sequence[int], size: int) -> list[list[int]]:
    """Split into pieces of a size; 0 for one piece.

    >>> _split(range(5), 2)
    [[0, 1], [2, 3], [4]]
    """
    size = size or max(len(pairs), 1)
    return [list(pairs[start : start + size]) for start in range(0, len(pairs), size)]
