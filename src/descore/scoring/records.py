"""Score records from what was thought and read: of one thought, or the mean over several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from descore.answer import Answer, AnswerError, parse_answer
from descore.inputs.answers import AnswerSettings, said_values
from descore.inputs.settings import ModelSettings
from descore.model.description import RewardStatistics
from descore.scoring.score import Score
from descore.thinking.readout import Readout
from descore.types import Group, Thought


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
