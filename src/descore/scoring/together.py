"""Scoring a batch: what repeats in it is read once, and each item gets its score record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from descore.answer import Answer, AnswerError, parse_answer
from descore.inputs.answers import AnswerSettings, said_values
from descore.inputs.settings import ModelSettings, RewardSource
from descore.model.description import RewardStatistics
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.scoring.reading import Item
from descore.scoring.score import Score
from descore.thinking.looking import look_and_think
from descore.thinking.readout import Readout, read_rewards
from descore.thinking.think import think
from descore.types import Branches, Group, Prefix, Thought, VideoFeatures

Judged = tuple[Group, Readout]
"""Thoughts about a video, and their rewards."""


@torch.no_grad()
def score_together(
    model: RewardModel,
    items: Sequence[Item],
    sampling: Sampling,
    source: RewardSource,
    known: RewardStatistics | None = None,
) -> list[Score]:
    """Score items that have a prefix in one batch.

    Items of one video and one prompt share a prefix, of which each given thought is a branch. Items of one video share
    the pass of the vision tower.

    Args:
        model: Model that scores single videos.
        items: Items, all with a given thought or all without.
        sampling: Sampling options of the thoughts that are not given.
        source: Source of the reward.
        known: Statistics of the rewards; None if the export has none.

    Returns:
        The score record of each item, in their order.

    Raises:
        FloatingPointError: If the model's logits are not finite.
    """
    judged = _judge(model, items, sampling, source)
    return [summarise(*one, model.settings, known) for one in judged]


def _judge(model: RewardModel, items: Sequence[Item], sampling: Sampling, source: RewardSource) -> list[Judged]:
    rows: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        rows.setdefault(item.key, []).append(index)
    first = [items[row[0]] for row in rows.values()]
    if first[0].thought is None:
        branches, seen = _read(model, first, [[Thought()]] * len(first))
        names, begun = [item.key for item in first], [item.begun for item in first if item.begun is not None]
        if begun:
            groups = look_and_think(model, begun, sampling, names=names, seen=seen)
        else:
            groups = think(model, branches, sampling, names=names, seen=seen)
        judged = zip(groups, read_rewards(model, branches, groups, source, seen=seen), strict=True)
        by_key = dict(zip(rows, judged, strict=True))
        return [by_key[item.key] for item in items]
    given = [[items[index].thought or Thought() for index in row] for row in rows.values()]
    branches, seen = _read(model, first, given)
    rewards = model(branches, seen=seen).rewards.split([len(row) for row in rows.values()])
    groups = [
        Group(
            tuple(items[index].given for index in row),
            tuple(items[index].text for index in row),
            (own.new_empty(0),) * len(row),
            own,
        )
        for row, own in zip(rows.values(), rewards, strict=True)
    ]
    readouts = read_rewards(model, branches, groups, source, seen=seen)
    found: dict[int, Judged] = {}
    for row, group, readout in zip(rows.values(), groups, readouts, strict=True):
        found |= {index: _alone(group, readout, place) for place, index in enumerate(row)}
    return [found[index] for index in range(len(items))]


def _read(
    model: RewardModel, items: Sequence[Item], thoughts: Sequence[Sequence[Thought]]
) -> tuple[Branches, list[VideoFeatures]]:
    """Pack the prefixes of items with their thoughts, and run the vision tower once for each different video."""
    device = model.head.weight.device
    prefixes = [item.prefix for item in items if item.prefix is not None]
    branches = model.processor.pack(prefixes, thoughts).to(device)
    once: dict[str, Prefix] = {}
    for item, prefix in zip(items, prefixes, strict=True):
        once.setdefault(item.video, prefix)
    if len(once) == len(items):
        return branches, list(model.see(branches))
    videos = model.processor.pack(list(once.values()), [()] * len(once)).to(device)
    seen = dict(zip(once, model.see(videos), strict=True))
    return branches, [seen[item.video] for item in items]


def _alone(group: Group, readout: Readout, place: int) -> Judged:
    """Return one thought of a group with its reward; a checklist has one reward for all thoughts."""
    one, read = slice(place, place + 1), slice(place, place + 1) if len(readout.errors) > 1 else slice(1)
    thought = Group(group.thoughts[one], group.texts[one], group.logprobs[one], group.rewards[one])
    return thought, Readout(readout.rewards[read], readout.errors[read])


def summarise(group: Group, readout: Readout, settings: ModelSettings, known: RewardStatistics | None) -> Score:
    """Return the score record of a video.

    Args:
        group: Thoughts about the video.
        readout: Rewards of these thoughts.
        settings: Settings of the model.
        known: Statistics of the rewards; None if the export has none.
    """
    record = partial(_record, settings=settings, known=known)
    found = zip(readout.rewards, group.thoughts, group.texts, readout.errors, strict=True)
    each = tuple(record(*one) for one in found)
    if len(each) == 1:
        return each[0]
    totals = [score.reward for score in each if score.error is None]
    error = None if totals else f"none of {len(each)} thoughts has a reward; the first one: {readout.errors[0]}"
    mean = record(readout.mean(), group.thoughts[0], group.texts[0], error)
    std = float(torch.tensor(totals).std()) if len(totals) > 1 else None
    return replace(mean, reward_std=std, each=each)


def _record(
    rewards: Tensor,
    thought: Thought,
    text: str,
    error: str | None,
    *,
    settings: ModelSettings,
    known: RewardStatistics | None,
) -> Score:
    answer, names = _answer(text), settings.reward_names
    return Score(
        reward=float(rewards.sum()),
        normalised_reward=None if error else normalise(rewards.tolist(), known),
        rewards=dict(zip(names, rewards.tolist(), strict=True)) if len(names) > 1 else {},
        thought=text,
        dimension_scores=answer.scores if answer else None,
        overall_score=_said(text, thought, settings.answer),
        num_thought_tokens=len(thought.token_ids),
        truncated=bool(text) and not thought.closed,
        error=error,
    )


def _said(text: str, thought: Thought, answer: AnswerSettings) -> float | None:
    """Return the overall score that a thought says; None if it says none."""
    try:
        return answer.combined(said_values(text, answer, whole=thought.closed), 1)[0]
    except AnswerError:
        return None


def normalise(rewards: Sequence[float], known: RewardStatistics | None) -> float | None:
    """Return the sum of rewards, each in standard deviations above its mean; None if those are not known.

    >>> normalise([3.0], RewardStatistics(mean=(1.0,), std=(4.0,)))
    0.5
    """
    if known is None or min(known.std) <= 0:
        return None
    return sum((reward - mean) / std for reward, mean, std in zip(rewards, known.mean, known.std, strict=True))


def _answer(text: str) -> Answer | None:
    try:
        return parse_answer(text)
    except AnswerError:
        return None
