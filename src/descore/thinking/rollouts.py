"""Rollouts of stage 2: thoughts sampled in groups for pairs of videos, graded, and compared within each group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from descore.advantages import AdvantageVariant, group_advantages, has_spread, without_outliers
from descore.inputs.choice import ChoiceError, ChoiceSettings, outcome_of
from descore.inputs.processor import Processor, prefixes_of
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.rewards import Rubric, Verdict
from descore.thinking.think import see_contexts, think
from descore.types import Branches, Group, Pair, PairBatch, Prefix, Side, VideoFeatures


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Thoughts about M pairs: n thoughts for each of V = 2M videos, videos A of all pairs first, then videos B.

    For a model that compares two videos, a "video" is a context: both videos, with A first in the first M contexts, and
    with B first in the others.

    Attributes:
        pairs: The M pairs.
        preference: Label of each pair and reward: +1 prefers A, -1 prefers B, 0 tie, nan no usable label.
        groups: Thoughts of each video.
        rewards: Rollout reward of each thought; nan where a rule failed.
        parts: Score that each rule of the rubric gave, by its name.
        advantages: Advantage of each thought over its group; 0 where its reward is nan.
        old_logprobs: Log-probability of each token when it was sampled.
        mask: Tokens that enter the loss: sampled ones, of thoughts with a rollout reward.
        prefixes: Prefix of each video.
        seen: Output of the vision tower for the one or two videos of each prefix; None if it must run in every forward,
            since it trains.
    """

    pairs: tuple[Pair, ...]
    preference: Tensor  # [M, K] float32
    groups: tuple[Group, ...]
    rewards: Tensor  # [V, n] float64
    parts: dict[str, Tensor]  # each [V, n] float64
    advantages: Tensor  # [V, n] float64
    old_logprobs: Tensor  # [V, n, T] float32, 0 where the mask is off
    mask: Tensor  # [V, n, T] bool
    prefixes: tuple[Prefix, ...]
    seen: tuple[tuple[VideoFeatures, ...], ...] | None

    def videos(self, pairs: Sequence[int]) -> list[int]:
        """Return the indices of the videos of some pairs: videos A of all of them, then videos B."""
        return [*pairs, *(len(self.pairs) + pair for pair in pairs)]

    def pack(self, processor: Processor, pairs: Sequence[int]) -> tuple[Branches, list[VideoFeatures] | None]:
        """Pack the videos of some pairs with all their thoughts.

        Args:
            processor: Processor of the model.
            pairs: Indices of the pairs.

        Returns:
            The packed batch, and the vision tower's output for its videos, or None if that was not kept.
        """
        videos = self.videos(pairs)
        branches = processor.pack([self.prefixes[v] for v in videos], [self.groups[v].thoughts for v in videos])
        return branches, None if self.seen is None else [one for v in videos for one in self.seen[v]]

    def by_token(self, logprobs: Tensor, pairs: Sequence[int]) -> Tensor:
        """Pad the packed log-probabilities of some pairs to the shape of `old_logprobs`.

        Args:
            logprobs: Log-probabilities of the thought tokens, `[num_tokens]`, in the order of `pack`.
            pairs: Indices of the pairs, as given to `pack`.

        Returns:
            Log-probabilities, `[v, n, T]` for the v = 2 * len(pairs) videos, 0 after the end of each thought.
        """
        groups = [self.groups[video] for video in self.videos(pairs)]
        lengths = [len(old) for group in groups for old in group.logprobs]
        padded = pad_sequence(list(torch.split(logprobs, lengths)), batch_first=True)
        padded = torch.nn.functional.pad(padded, (0, self.mask.shape[2] - padded.shape[1]))
        return padded.view(len(groups), -1, self.mask.shape[2])


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Options of `roll_out`.

    Attributes:
        sampling: Sampling options of the thoughts.
        rubric: Rules that give each thought its rollout reward.
        advantage: Variant of the advantage within a group; see `group_advantages`.
        resample: Number of times that a group whose thoughts all got the same reward is sampled again.
        outlier_stds: Advantages further from the mean of the batch, in standard deviations, are set to 0.
        videos_per_call: Number of videos whose thoughts are sampled together, to bound memory; 0 takes the whole batch.
    """

    sampling: Sampling
    rubric: Rubric
    advantage: AdvantageVariant = "grpo"
    resample: int = 0
    outlier_stds: float = math.inf
    videos_per_call: int = 0


@torch.no_grad()
def roll_out(
    model: RewardModel, batch: PairBatch, settings: RolloutSettings, *, key: str = "", look_once: bool = True
) -> Rollouts:
    """Sample a group of thoughts for every video of a batch, grade them, and compute their advantages.

    Args:
        model: Policy that samples the thoughts.
        batch: Batch of pairs; only the prefixes of its branches are read.
        settings: Options of sampling, grading and comparing.
        key: Name of this rollout, such as the training step. With the pair's id it keys the sampled tokens, so that a
            pair gets new thoughts under each key.
        look_once: Whether to keep the vision tower's output for later forwards. Set it to False where the tower trains.

    Raises:
        ValueError: If a rule of the rubric needs annotated scores that a video does not have.
    """
    seen = tuple(see_contexts(model, batch.branches)) if look_once else None
    prefixes = tuple(prefixes_of(batch.branches))
    names = [f"{key}/{pair.id}/{side}" for side in "ab" for pair in batch.pairs]
    choice = model.settings.choice if model.settings.is_pairwise else None
    truths = [side.scores for side in sides_of(batch.pairs)] if choice is None else right_outcomes(batch, choice)

    def think_about(videos: Sequence[int], attempt: int) -> list[Group]:
        per_call = settings.videos_per_call or len(videos)
        groups: list[Group] = []
        for some in (videos[start : start + per_call] for start in range(0, len(videos), per_call)):
            packed = model.processor.pack([prefixes[video] for video in some], [()] * len(some))
            known = None if seen is None else [one for video in some for one in seen[video]]
            who = [f"{names[video]}/{attempt}" for video in some]
            groups += think(model, packed, settings.sampling, names=who, seen=known)
        return groups

    def judge(groups: Sequence[Group]) -> tuple[Tensor, dict[str, Tensor]]:
        return grade(groups, truths, settings.rubric, choice)

    groups, rewards, parts = _sample(think_about, judge, len(truths), settings.resample)
    rewards = rewards.to(batch.preference.device)
    return Rollouts(
        pairs=batch.pairs,
        preference=batch.preference,
        groups=tuple(groups),
        rewards=rewards,
        parts=parts,
        advantages=without_outliers(group_advantages(rewards, variant=settings.advantage), settings.outlier_stds),
        old_logprobs=_pad([logprobs for group in groups for logprobs in group.logprobs], rewards),
        mask=_pad([torch.ones(len(logprobs)).bool() for group in groups for logprobs in group.logprobs], rewards)
        & ~rewards.isnan()[..., None],
        prefixes=prefixes,
        seen=seen,
    )


def sides_of(pairs: Sequence[Pair]) -> list[Side]:
    """Return videos A of all pairs, then videos B."""
    return [pair.a for pair in pairs] + [pair.b for pair in pairs]


def right_outcomes(batch: PairBatch, choice: ChoiceSettings) -> list[dict[str, str | None]]:
    """Return the outcome of each label with A first, then with B first, where "A" is the video that comes first.

    It is None where there is no usable label, and for a tie if the model has no words for one.
    """
    labels = torch.cat([batch.preference[:, 0], -batch.preference[:, 0]]).tolist()
    outcomes = map(outcome_of, labels)
    return [{"verdict": outcome if outcome in choice.words else None} for outcome in outcomes]


def grade(
    groups: Sequence[Group],
    truths: Sequence[Mapping[str, Any] | None],
    rubric: Rubric,
    choice: ChoiceSettings | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Grade every thought of V videos by a rubric, against what is known of its video.

    Args:
        groups: The n thoughts of each video.
        truths: Annotated dimension scores of each video; of a model that compares, the right outcome as "verdict".
        rubric: Rules that give each thought its rollout reward.
        choice: Words of the verdict, for a model that compares two videos.

    Returns:
        Rollout rewards `[V, n]`, and the score of each rule by name, `[V, n]` each; all float64.

    Raises:
        ValueError: If a rule needs annotated scores that a video does not have.

    >>> from descore.types import Thought
    >>> thoughts = (Thought(token_ids=(7,) * 500), Thought(token_ids=(7,) * 1250))
    >>> group = Group(thoughts, texts=("", ""), logprobs=(), rewards=torch.zeros(2, 1))
    >>> rewards, _ = grade([group], [None], Rubric({"length": 0.2}))
    >>> rewards.tolist()
    [[0.0, 0.1]]
    """
    graded = [
        [
            rubric(text, truth, len(thought.token_ids), _verdict(choice, text, truth))
            for text, thought in zip(group.texts, group.thoughts, strict=True)
        ]
        for group, truth in zip(groups, truths, strict=True)
    ]
    rewards = torch.tensor([[reward.total for reward in row] for row in graded], dtype=torch.float64)
    parts = {
        name: torch.tensor([[reward.parts[name] for reward in row] for row in graded], dtype=torch.float64)
        for name in rubric.weights
    }
    return rewards, parts


def _verdict(choice: ChoiceSettings | None, text: str, truth: Mapping[str, Any] | None) -> Verdict | None:
    """Return what a thought about two videos says of them; None for one about one video."""
    if choice is None or truth is None:
        return None
    try:
        said = choice.said(text)
    except ChoiceError:
        said = None
    return Verdict(said, truth["verdict"], choice.is_whole(text))


def _sample(
    think_about: Callable[[Sequence[int], int], list[Group]],
    judge: Callable[[Sequence[Group]], tuple[Tensor, dict[str, Tensor]]],
    num_videos: int,
    resample: int,
) -> tuple[list[Group], Tensor, dict[str, Tensor]]:
    """Sample thoughts for every video, and again for those whose thoughts all got the same reward."""
    groups = think_about(range(num_videos), 0)
    rewards, parts = judge(groups)
    for attempt in range(1, resample + 1):
        flat = (~has_spread(rewards)).nonzero()[:, 0].tolist()
        if not flat:
            break
        for video, group in zip(flat, think_about(flat, attempt), strict=True):
            groups[video] = group
        rewards, parts = judge(groups)
    return groups, rewards, parts


def _pad(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    """Pad V * n rows of different lengths to [V, n, T], on the device of `like`, which is [V, n]."""
    return pad_sequence(list(rows), batch_first=True).view(*like.shape, -1).to(like.device)
