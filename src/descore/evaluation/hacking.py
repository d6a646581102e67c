"""Signs that a reward can be hacked: little spread within a group, and rewards that follow the thought's length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from descore.evaluation.folder import Evaluation, reward_of
from descore.evaluation.percentages import percent
from descore.metrics import group_correlation, group_spread, rank_correlation
from descore.scoring.folder import Record


def measure_hacking(evaluation: Evaluation, name: str) -> Record:
    """Measure how far rewards can be hacked, in one reward dimension; a number that does not exist is nan.

    Args:
        evaluation: Evaluation in which every video has a score record.
        name: Reward dimension.

    Returns:
        "spread" within "prompts" (the videos of a prompt) and within "videos" (the thoughts of a video; None with fewer
        than two each), each a `GroupSpread`. "length", the correlation of rewards with thought lengths, "overall" and
        within the same groups (each a `GroupCorrelation`); None without thoughts.
    """
    prompts = [video["prompt"] for video in evaluation.videos]
    several = evaluation.info["protocol"]["thoughts"] > 1
    each = _each_thought(evaluation, name) if several else None
    return {
        "spread": {
            "prompts": asdict(group_spread(evaluation.rewards(name), prompts)),
            "videos": asdict(group_spread(each.rewards, each.videos)) if each else None,
        },
        "length": _length(evaluation, name, prompts, each) if evaluation.info["protocol"]["thoughts"] else None,
    }


@dataclass(frozen=True, slots=True)
class _Thoughts:
    """Every thought of an evaluation: its video, its reward and its length in tokens."""

    videos: list[int]
    rewards: list[float]
    lengths: list[int]


def _each_thought(evaluation: Evaluation, name: str) -> _Thoughts:
    rows = [(index, one) for index, score in enumerate(evaluation.scores) if score for one in score["each"]]
    return _Thoughts(
        [index for index, _ in rows],
        [reward_of(one, name) for _, one in rows],
        [one["num_thought_tokens"] for _, one in rows],
    )


def _length(evaluation: Evaluation, name: str, prompts: Sequence[str], each: _Thoughts | None) -> Record:
    rewards = evaluation.rewards(name)
    lengths = thought_lengths(evaluation, name)
    overall = rank_correlation(rewards, lengths)
    return {
        "overall": {"spearman": overall.spearman, "num_videos": overall.num_videos},
        "prompts": asdict(group_correlation(rewards, lengths, prompts)),
        "videos": asdict(group_correlation(each.rewards, each.lengths, each.videos)) if each else None,
    }


def thought_lengths(evaluation: Evaluation, name: str) -> list[float]:
    """Return the length of each video's thought in tokens, [num_videos]; nan where there is none with a reward.

    For several thoughts it is the mean over those that have a reward, as the reward of the video is.

    Args:
        evaluation: Evaluation to take the thoughts of.
        name: Reward dimension.
    """
    return [_mean_length(score, name) for score in evaluation.scores]


def _mean_length(score: Record | None, name: str) -> float:
    thoughts = (score["each"] or [score]) if score else []
    lengths = [one["num_thought_tokens"] for one in thoughts if not math.isnan(reward_of(one, name))]
    return fmean(lengths) if lengths else math.nan


def describe_spread(measured: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Describe spread and length in short texts: value and note by measure, a dash where a number does not exist.

    Args:
        measured: What `measure_hacking` gives, with None for nan.
    """
    cells = {}
    for group, title in (("prompts", "prompt"), ("videos", "video")):
        if found := measured["spread"][group]:
            cells[f"spread in a {title}"] = _number(found["within"]), f"{percent(found['share'])} of all"
            cells[f"flat {group}"] = percent(found["flat"]), f"of {found['num_groups']}"
    if length := measured["length"]:
        cells["length"] = _number(length["overall"]["spearman"], sign=True), f"{length['overall']['num_videos']} videos"
        for group, title in (("prompts", "prompt"), ("videos", "video")):
            if found := length[group]:
                interval = "" if found["low"] is None else f"({found['low']:+.2f} to {found['high']:+.2f})"
                cells[f"length in a {title}"] = _number(found["spearman"], sign=True), interval
    return cells


def _number(value: float | None, *, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+.2f' if sign else '.3g'}}"
