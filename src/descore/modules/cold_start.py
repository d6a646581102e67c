"""Stage 1, the discriminative cold start: a preference loss on the head, with thoughts that are masked at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from descore.frame_tool.settings import FrameTool
from descore.heads.settings import HeadSettings
from descore.inputs.answers import AnswerSettings
from descore.inputs.collate import Masking, PairCollator, Read
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import FROM_THOUGHT, ModelSettings, RewardSource, ThoughtReading
from descore.losses.pair_losses import Labels
from descore.modules.options import Optimization
from descore.modules.readings import GivenReader, HeadReader, NoReader, Reading
from descore.modules.supervised import SupervisedSystem
from descore.objectives.preference import PreferenceObjective
from descore.thinking.conversation import ConversationCollator
from descore.types import Pair, PairBatch
from descore.video.settings import VideoSettings


class ColdStartModule(SupervisedSystem):
    """Trains the head, the query token and the backbone on preferences; teacher thoughts come with the data.

    Args:
        backbone: Hub id or folder of a backbone, or "tiny", which ships with the package.
        template: Instruction: "descore" or "rendered" of the package, or a text file with one {prompt} in it.
        video: How a video is read: the same in all stages and in scoring.
        reward_names: Names of the rewards, one per label of the table (data.dimensions).
        head: Form of the head, and the query tokens that it reads.
        max_thought_tokens: Length limit of a thought in tokens; a longer one is cut off.
        reward_from: What the reward of the trained model is read from: "head"; or its thoughts, for a coupled baseline:
            "overall_score", what the answer says, "expected_score", the expectation over what it might have said, or
            "top_share", the likeliest digit times its probability. A source and an answer of its own form are given
            together: {source: top_share, answer: {fields: {motion: 'motion: ([1-5])'}}}.
        thoughts: Whether the teacher's thoughts are read; false trains a discriminative baseline, which never thinks.
            For thoughts that ask for frames, give the settings of that tool: {first_frames: 8, frames_per_call: 8}.
        objective: What is minimised, and how thoughts are masked.
        optimization: What trains, and how.
        own_thought_pairs: Validation pairs per table and rank for which the model writes its own thoughts, which give
            the headline. With 0 the headline is accuracy with the teacher's thoughts.
        seed: Seed of the thought masks and of the new head.

    Raises:
        ValueError: If a reward that is read from thoughts has no thoughts to be read from in validation.
    """

    stage = "cold_start"

    def __init__(
        self,
        backbone: str = "tiny",
        template: str = "descore",
        video: VideoSettings = VideoSettings(),
        reward_names: tuple[str, ...] = ("overall",),
        head: HeadSettings = HeadSettings(),
        max_thought_tokens: int = 4096,
        reward_from: RewardSource | ThoughtReading = "head",
        thoughts: bool | FrameTool = True,
        objective: PreferenceObjective = PreferenceObjective(),
        optimization: Optimization = Optimization({"language": 1e-4, "query": 1e-3, "head": 1e-3}),
        own_thought_pairs: int = 64,
        seed: int = 0,
    ) -> None:
        source: RewardSource
        answer = AnswerSettings()
        if isinstance(reward_from, ThoughtReading):
            source, answer = reward_from.source, reward_from.answer
        else:
            source = reward_from
        settings = ModelSettings(
            backbone=backbone,
            template=PromptTemplate.read(template).text,
            video=video,
            reward_names=tuple(reward_names),
            head=head,
            max_thought_tokens=max_thought_tokens,
            reward_from=source,
            thoughts=bool(thoughts),
            answer=answer,
            tool=thoughts if isinstance(thoughts, FrameTool) else None,
        )
        _check_masking(settings, objective)
        if source in FROM_THOUGHT and own_thought_pairs < 1:
            raise ValueError(
                f"own_thought_pairs is {own_thought_pairs}; expected at least 1: with reward_from {source!r} "
                "they give the headline"
            )
        super().__init__(
            settings,
            optimization=optimization,
            own_thought_pairs=own_thought_pairs if thoughts else 0,
            seed=seed,
        )
        self.objective = objective
        self.headline = _headline(thoughts=settings.thoughts, own=own_thought_pairs > 0)
        self._warned = False

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """Mask in training only; validation scores each video with its thought, and without one if it has no tool."""
        has_tool = self.settings.tool is not None
        in_validation: Masking = "sampled" if has_tool else "both"
        return (ConversationCollator if has_tool else PairCollator)(
            self.model.processor,
            thoughts=self.settings.thoughts,
            masking=self.objective.cot_masking if training else in_validation,
            mask_prob=self.objective.cot_mask_prob if training else 0.0,
            seed=self.seed,
            keep_frames=not training,
            read=read,
        )

    def given_reader(self) -> GivenReader:
        """Read the head; of a reward that only thoughts give, nothing can be read without them."""
        if self.settings.reward_from in FROM_THOUGHT:
            return NoReader()
        if self.settings.tool is not None:
            return HeadReader(needs_thoughts=self.headline != "teacher_thought", readings=("teacher_thought",))
        return super().given_reader()

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Score a batch, and return its loss."""
        self._check(batch)
        forward = self.model(batch.branches, with_logprobs=self.objective.reads_logprobs)
        rewards = forward.rewards.view(2, len(batch.pairs), -1, forward.rewards.shape[1])
        labels = Labels(batch.preference, *batch.mos)
        losses = self.objective(rewards, forward.logprobs, labels, self._mean)
        if losses.preference is not None:
            self._log("preference_loss", losses.preference)
            self._log_rewards(rewards.detach(), labels)
        if losses.language_model is not None:
            self._log("language_model_loss", losses.language_model)
        return self._finish(losses.total, batch)

    def objective_options(self) -> Mapping[str, Any]:
        """Return the options of the objective."""
        return asdict(self.objective)

    def _log_rewards(self, rewards: Tensor, labels: Labels) -> None:
        """Log accuracy, margin, mean and standard deviation of `[2, N, n, K]` rewards over the batch of all ranks."""
        reward_a, reward_b = rewards
        preference = labels.of_branches(reward_a).preference
        margin, decided = (reward_a - reward_b) * preference, preference.nan_to_num() != 0
        self._log("preference_accuracy", self._mean((margin > 0).float(), decided), prog_bar=True)
        self._log("reward_margin", self._mean(margin, decided))
        everywhere = rewards.new_ones(rewards.shape).bool()
        mean, square = (self.mean_over_ranks(self._mean(values, everywhere)) for values in (rewards, rewards**2))
        self.log("train/reward_mean", mean)
        self.log("train/reward_std", (square - mean**2).clamp(min=0).sqrt())

    def _check(self, batch: PairBatch) -> None:
        if "mos_a" in self.objective.pair_loss.reads and bool(batch.mos.isnan().all()):
            ids = ", ".join(pair.id for pair in batch.pairs[:3])
            raise ValueError(
                f"the {self.objective.loss} loss needs opinion scores, and the pairs {ids} have none: add mos columns "
                "to the table, or choose another --model.objective.loss"
            )
        lacking = any(not (pair.a.thought and pair.b.thought) for pair in batch.pairs)
        if self.settings.thoughts and not self._warned and lacking:
            self._warned = True
            rank_zero_warn(
                "a pair has no teacher thought while model.thoughts is true: its videos are scored without one. If no "
                "pair has any, the model learns to score without; give --model.thoughts false if it must never think"
            )


def _check_masking(settings: ModelSettings, objective: PreferenceObjective) -> None:
    if settings.tool is not None and objective.cot_masking == "both":
        raise ValueError(
            "objective.cot_masking is 'both', but a thought with a tool has frames that the video without one does "
            "not have, so the two share no prefix; expected 'sampled'"
        )


def _headline(*, thoughts: bool, own: bool) -> Reading:
    """Return the reading that comes nearest to how users score: with the model's own thought, if it writes one."""
    if not thoughts:
        return "no_thought"
    return "own_thought" if own else "teacher_thought"
