"""Stage 1, the discriminative cold start: a preference loss on the head, with thoughts that are masked at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import AdamW

from descore.inputs.collate import Masking, PairCollator, Read
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import SAID, ModelSettings, QueryMode, RewardSource
from descore.losses.pair_losses import Labels, PairLossName, pair_loss
from descore.model.reward_model import RewardModel
from descore.model.trainable import Part
from descore.modules.supervised import SupervisedSystem
from descore.modules.system import Schedule
from descore.types import Pair, PairBatch
from descore.video.settings import VideoSettings


class ColdStartModule(SupervisedSystem):
    """Trains the head, the query token and the backbone on preferences; teacher thoughts come with the data.

    Args:
        backbone: Hub id or folder of a Qwen3-VL or Qwen2.5-VL, or "tiny", which ships with the package.
        template: Text file with the instruction; it has one {prompt} in it.
        fps: Frames sampled per second of video.
        min_frames: Fewest frames of a video.
        max_frames: Most frames of a video.
        min_pixels: Fewest pixels of a frame.
        max_pixels: Most pixels of a frame.
        reward_names: Names of the rewards, one per label of the table (data.dimensions).
        query: "shared": one <Reward> for all rewards; "each": a query token for every reward.
        max_thought_tokens: A longer thought is cut there.
        reward_from: What the trained model's reward is read from: "head"; or of its thoughts, for a coupled baseline,
            "overall_score", what they say, or "expected_score", the mean of what they might have said.
        thoughts: Whether the teacher's thoughts are read; false trains a discriminative baseline, which never thinks.
        cot_mask_prob: Probability that a pair is scored without its thoughts in training.
        cot_masking: "sampled" draws that for each pair; "both" trains on its expectation, for one more token a video.
        loss: Preference loss.
        theta: Tie parameter of the rao_kupper loss.
        margin: Margin of the constant_margin loss.
        preference_weight: Weight of the preference loss; 0 trains no head.
        language_model_weight: Weight of the language-model loss on the teacher's thoughts.
        learning_rates: Learning rate by part: language, vision, merger, query, head, embedding. A part without one is
            frozen.
        lora_parts: Parts that train through LoRA instead of their own weights.
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of the adapters, divided by the rank.
        optimizer: Optimizer; its learning rate is replaced by that of each part.
        schedule: Course of the learning rates after the warm-up.
        warmup: Share of the steps that warm up.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        frozen_dtype: Precision that frozen weights are kept in; bfloat16 goes with trainer.precision bf16-mixed.
        own_thought_pairs: Validation pairs per table for which the model writes its own thoughts; 0 for none.
        max_skipped: Steps in a row that may be skipped because loss or gradient is not finite.
        seed: Of the masks and of the new head.
    """

    stage = "cold_start"

    def __init__(
        self,
        backbone: str = "tiny",
        template: str = "conf/prompts/descore.txt",
        fps: float = 2.0,
        min_frames: int = 4,
        max_frames: int = 60,
        min_pixels: int = 4096,
        max_pixels: int = 200_704,
        reward_names: tuple[str, ...] = ("overall",),
        query: QueryMode = "shared",
        max_thought_tokens: int = 4096,
        reward_from: RewardSource = "head",
        thoughts: bool = True,
        cot_mask_prob: float = 0.5,
        cot_masking: Masking = "sampled",
        loss: PairLossName = "bradley_terry",
        theta: float = 5.0,
        margin: float = 0.57,
        preference_weight: float = 1.0,
        language_model_weight: float = 0.0,
        learning_rates: dict[Part, float] | None = None,
        lora_parts: list[Part] | None = None,
        lora_rank: int = 64,
        lora_alpha: int = 128,
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "constant_with_warmup",
        warmup: float = 0.05,
        gradient_checkpointing: bool = False,
        frozen_dtype: Literal["float32", "bfloat16"] = "float32",
        own_thought_pairs: int = 64,
        max_skipped: int = 10,
        seed: int = 0,
    ) -> None:
        settings = ModelSettings(
            backbone=backbone,
            template=PromptTemplate.read(template).text,
            video=VideoSettings(fps, min_frames, max_frames, min_pixels, max_pixels),
            reward_names=tuple(reward_names),
            query=query,
            max_thought_tokens=max_thought_tokens,
            reward_from=reward_from,
            thoughts=thoughts,
        )
        if reward_from in SAID and own_thought_pairs < 1:
            raise ValueError(
                f"own_thought_pairs is {own_thought_pairs}; expected at least 1: with reward_from {reward_from!r} "
                "they give the headline"
            )
        super().__init__(
            partial(RewardModel.create, settings, seed=seed),
            learning_rates=learning_rates or {"language": 1e-4, "query": 1e-3, "head": 1e-3},
            lora_parts=lora_parts or [],
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            optimizer=optimizer,
            schedule=schedule,
            warmup=warmup,
            gradient_checkpointing=gradient_checkpointing,
            frozen_dtype=frozen_dtype,
            own_thought_pairs=own_thought_pairs if thoughts else 0,
            max_skipped=max_skipped,
            seed=seed,
        )
        self.save_hyperparameters(ignore=["optimizer"])
        self.thoughts = thoughts
        self.cot_mask_prob = cot_mask_prob
        self.cot_masking: Masking = cot_masking
        self.loss, self.theta, self.margin = loss, theta, margin
        self.pair_loss = pair_loss(loss, theta=theta, margin=margin)
        self.preference_weight = preference_weight
        self.language_model_weight = language_model_weight
        self.headline = "own_thought" if reward_from in SAID else "teacher_thought"
        self._warned = False

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """Mask in training only; validation scores each video with its thought and without."""
        return PairCollator(
            self.model.processor,
            thoughts=self.thoughts,
            masking=self.cot_masking if training else "both",
            mask_prob=self.cot_mask_prob,
            seed=self.seed,
            keep_frames=not training,
            read=read,
        )

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Preference loss on the rewards, and language-model loss on the thoughts: those of them that have a weight."""
        self._check(batch)
        forward = self.model(batch.branches, with_logprobs=self.language_model_weight > 0)
        loss = torch.zeros((), device=self.device)
        if self.preference_weight > 0:
            rewards = forward.rewards.view(2, len(batch.pairs), -1, forward.rewards.shape[1])
            loss = loss + self.preference_weight * self._preference_loss(rewards, batch)
        if self.language_model_weight > 0:
            language_model_loss = self._mean(-forward.logprobs, torch.ones_like(forward.logprobs).bool())
            self._log("language_model_loss", language_model_loss)
            loss = loss + self.language_model_weight * language_model_loss
        return self._finish(loss, batch)

    def loss_options(self) -> Mapping[str, Any]:
        """Which losses, and their weights."""
        loss = {"name": self.loss, "theta": self.theta, "margin": self.margin}
        return loss | {
            "preference_weight": self.preference_weight,
            "language_model_weight": self.language_model_weight,
        }

    def _preference_loss(self, rewards: Tensor, batch: PairBatch) -> Tensor:
        """Loss of `[2, N, n, K]` rewards: n = 1 branch as drawn, or 2 weighed by the mask's probability."""
        reward_a, reward_b = rewards
        labels = Labels(*(values[:, None].expand_as(reward_a) for values in (batch.preference, *batch.mos)))
        losses, usable = self.pair_loss(reward_a, reward_b, labels), self.pair_loss.usable(labels)
        shares = [1 - self.cot_mask_prob, self.cot_mask_prob] if rewards.shape[2] == 2 else [1.0]
        branches = zip(shares, losses.unbind(1), usable.unbind(1), strict=True)
        loss = torch.stack([share * self._mean(*branch) for share, *branch in branches]).sum()
        margin = ((reward_a - reward_b) * labels.preference).detach()
        decided = labels.preference.nan_to_num() != 0
        self._log("preference_loss", loss)
        self._log("preference_accuracy", self._mean((margin > 0).float(), decided), prog_bar=True)
        self._log("reward_margin", self._mean(margin, decided))
        self._log_rewards(rewards.detach())
        return loss

    def _log_rewards(self, rewards: Tensor) -> None:
        """Log mean and standard deviation over the batch of all ranks."""
        counted = torch.ones_like(rewards).bool()
        mean, square = (self._mean_over_ranks(self._mean(values, counted)) for values in (rewards, rewards**2))
        self.log("train/reward_mean", mean)
        self.log("train/reward_std", (square - mean**2).clamp(min=0).sqrt())

    def _check(self, batch: PairBatch) -> None:
        if "mos_a" in self.pair_loss.reads and bool(batch.mos.isnan().all()):
            ids = ", ".join(pair.id for pair in batch.pairs[:3])
            raise ValueError(
                f"this loss needs opinion scores, and pairs {ids}... have none: give mos columns or choose another loss"
            )
        if self.thoughts and not self._warned and any(not (pair.a.thought and pair.b.thought) for pair in batch.pairs):
            self._warned = True
            rank_zero_warn(
                "a pair has no teacher thought while thoughts are on: its videos are scored without one. If no pair "
                "has any, the model learns to score without; set model.thoughts to false for one that never thinks"
            )
