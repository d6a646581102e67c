"""Rollouts: groups of thoughts sampled for pairs of videos, graded one by one, and compared within their groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from descore.advantages import AdvantageVariant, group_advantages, has_spread
from descore.inputs.processor import Processor, prefixes_of
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.rewards import Rubric
from descore.thinking.think import think
from descore.types import Branches, Group, Pair, PairBatch, Prefix, Side, VideoFeatures


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The thoughts about M pairs: V = 2M videos, those A of all pairs and then those B, n thoughts each.

    Attributes:
        pairs: The pairs.
        preference: +1 A, -1 B, 0 tie, nan unusable.
        groups: The thoughts of each video.
        rewards: Rollout reward of each thought; nan where it failed.
        parts: What each rule gave, by name.
        advantages: How much better each thought did than its group; 0 where it failed.
        old_logprobs: Log-probability of each token when it was sampled.
        mask: The tokens that count: those that were sampled, of thoughts that did not fail.
        prefixes: What was read before each thought.
        seen: What the vision tower made of each video; None if it has to look again in every forward.
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
    seen: tuple[VideoFeatures, ...] | None

    def videos(self, pairs: Sequence[int]) -> list[int]:
        """Places of the videos of some pairs: their A, then their B."""
        return [*pairs, *(len(self.pairs) + pair for pair in pairs)]

    def pack(self, processor: Processor, pairs: Sequence[int]) -> tuple[Branches, list[VideoFeatures] | None]:
        """Lay out the videos of some pairs with all their thoughts, and pick what was seen of them."""
        videos = self.videos(pairs)
        branches = processor.pack([self.prefixes[v] for v in videos], [self.groups[v].thoughts for v in videos])
        return branches, None if self.seen is None else [self.seen[v] for v in videos]

    def by_token(self, logprobs: Tensor, pairs: Sequence[int]) -> Tensor:
        """Give the packed log-probabilities `[M]` of some pairs the shape of `old_logprobs`, `[v, n, T]`."""
        groups = [self.groups[video] for video in self.videos(pairs)]
        lengths = [len(old) for group in groups for old in group.logprobs]
        padded = pad_sequence(list(torch.split(logprobs, lengths)), batch_first=True)
        padded = torch.nn.functional.pad(padded, (0, self.mask.shape[2] - padded.shape[1]))
        return padded.view(len(groups), -1, self.mask.shape[2])


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How a batch of pairs becomes rollouts.

    Attributes:
        sampling: How thoughts are sampled.
        rubric: Grades a thought.
        advantage: How thoughts are compared.
        resample: How often a group without spread is sampled again.
        videos_per_call: Videos that are thought about at the same time; 0 for all of the batch.
    """

    sampling: Sampling
    rubric: Rubric
    advantage: AdvantageVariant = "grpo"
    resample: int = 0
    videos_per_call: int = 0


@torch.no_grad()
def roll_out(
    model: RewardModel, batch: PairBatch, settings: RolloutSettings, *, key: str = "", look_once: bool = True
) -> Rollouts:
    """Sample a group of thoughts for every video of a batch, grade them and compare them.

    Args:
        model: The policy.
        batch: Pairs; only the prefixes of its branches are read.
        settings: How.
        key: Names the occasion, so that a pair is thought about anew each time; with the pair's id it keys the draws.
        look_once: Keep what the vision tower made of each video; not to be done where that tower trains.

    Raises:
        ValueError: If a rule of the rubric needs annotated scores that a video does not have.
    """
    seen = model.see(batch.branches) if look_once else None
    prefixes = tuple(prefixes_of(batch.branches))
    names = [f"{key}/{pair.id}/{side}" for side in "ab" for pair in batch.pairs]
    sides = [pair.a for pair in batch.pairs] + [pair.b for pair in batch.pairs]

    def think_about(videos: Sequence[int], attempt: int) -> list[Group]:
        per_call = settings.videos_per_call or len(videos)
        groups: list[Group] = []
        for some in (videos[start : start + per_call] for start in range(0, len(videos), per_call)):
            packed = model.processor.pack([prefixes[video] for video in some], [()] * len(some))
            known = None if seen is None else [seen[video] for video in some]
            who = [f"{names[video]}/{attempt}" for video in some]
            groups += think(model, packed, settings.sampling, names=who, seen=known)
        return groups

    groups, rewards, parts = _sample(think_about, sides, settings)
    rewards = rewards.to(batch.preference.device)
    return Rollouts(
        pairs=batch.pairs,
        preference=batch.preference,
        groups=tuple(groups),
        rewards=rewards,
        parts=parts,
        advantages=group_advantages(rewards, variant=settings.advantage),
        old_logprobs=_pad([logprobs for group in groups for logprobs in group.logprobs], rewards),
        mask=_pad([torch.ones(len(logprobs)).bool() for group in groups for logprobs in group.logprobs], rewards)
        & ~rewards.isnan()[..., None],
        prefixes=prefixes,
        seen=seen,
    )


def grade(groups: Sequence[Group], sides: Sequence[Side], rubric: Rubric) -> tuple[Tensor, dict[str, Tensor]]:
    """Grade every thought of every video against what is annotated of that video.

    Returns:
        The rollout rewards `[V, n]` and their parts, each `[V, n]`, float64.
    """
    graded = [
        [
            rubric(text, side.scores, len(thought.token_ids))
            for text, thought in zip(group.texts, group.thoughts, strict=True)
        ]
        for group, side in zip(groups, sides, strict=True)
    ]
    rewards = torch.tensor([[reward.total for reward in row] for row in graded], dtype=torch.float64)
    parts = {
        name: torch.tensor([[reward.parts[name] for reward in row] for row in graded], dtype=torch.float64)
        for name in rubric.weights
    }
    return rewards, parts


def _sample(
    think_about: Callable[[Sequence[int], int], list[Group]], sides: Sequence[Side], settings: RolloutSettings
) -> tuple[list[Group], Tensor, dict[str, Tensor]]:
    """Think about every video, then again about those whose thoughts all got the same reward."""
    groups = think_about(range(len(sides)), 0)
    rewards, parts = grade(groups, sides, settings.rubric)
    for attempt in range(1, settings.resample + 1):
        flat = (~has_spread(rewards)).nonzero()[:, 0].tolist()
        if not flat:
            break
        for video, group in zip(flat, think_about(flat, attempt), strict=True):
            groups[video] = group
        rewards, parts = grade(groups, sides, settings.rubric)
    return groups, rewards, parts


def _pad(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    """V * n rows of different lengths -> [V, n, T] on the device of `like`, [V, n]."""
    return pad_sequence(list(rows), batch_first=True).view(*like.shape, -1).to(like.device)
