"""Signs that a reward can be hacked.

There is little spread within a group, the reward follows the length of the thought, or it ignores the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from descore.evaluation.folder import Evaluation, reward_of
from descore.evaluation.percentages import percent, percents
from descore.metrics import calls, group_correlation, group_spread, paired_test, prompt_swap, rank_correlation
from descore.scoring.folder import Record


def measure_hacking(evaluation: Evaluation, name: str) -> Record:
    """Measure how far rewards can be hacked, in one reward dimension; a number that does not exist is nan.

    Args:
        evaluation: Evaluation in which every video has a score record.
        name: Reward dimension.

    Returns:
        "spread" within "prompts" (the videos of a prompt) and within "videos" (the thoughts of a video; None with fewer
        than two each), each a `GroupSpread`. "length", the correlation of rewards with thought lengths, "overall" and
        within the same groups (each a `GroupCorrelation`); None without thoughts. "swapped", a `PromptSwap` with
        "num_failed", the number of videos without one of the two rewards, and "pairs"; None without swapped prompts.
        "pairs" compares the accuracy without ties of "own" and "swapped" prompts over the same "num_decided" pairs,
        with the "difference" and its "interval"; None without pairs.
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
        "swapped": _swapped(evaluation, name, prompts) if evaluation.swapped_videos else None,
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


def _swapped(evaluation: Evaluation, name: str, prompts: Sequence[str]) -> Record:
    own, swapped = evaluation.rewards(name), evaluation.swapped_rewards(name)
    found = prompt_swap(own, swapped, prompts)
    num_asked = sum("swapped" in video for video in evaluation.videos)
    pairs = _swapped_pairs(evaluation, name, swapped) if evaluation.pairs else None
    return asdict(found) | {"num_failed": num_asked - found.num_videos, "pairs": pairs}


def _swapped_pairs(evaluation: Evaluation, name: str, swapped: Tensor) -> Record:
    """Compare the accuracy over the pairs whose two videos were scored with one and the same swapped prompt."""
    taken = [evaluation.swapped_prompt(index) for index in range(len(evaluation.videos))]
    same = torch.tensor([taken[pair["a"]] == taken[pair["b"]] for pair in evaluation.pairs])
    labels, margins = evaluation.preferences(name), (evaluation.margins(name), evaluation.differences(swapped))
    known = same & ~(margins[0].isnan() | margins[1].isnan())
    own, other = (calls(margin.where(known, math.nan), labels) for margin in margins)
    test = paired_test(own, other, [pair["prompt"] for pair in evaluation.pairs])
    return {
        "own": float(own.nanmean()),
        "swapped": float(other.nanmean()),
        "difference": test.difference,
        "interval": (test.low, test.high),
        "num_decided": test.num_pairs,
    }


def describe_swap(measured: Mapping[str, Any] | None) -> dict[str, tuple[str, str]]:
    """Describe what swapped prompts change in short texts: value and note by measure; empty without swapped prompts.

    Args:
        measured: What `measure_hacking` gives, with None for nan; None for a model that gives no reward.
    """
    found = measured["swapped"] if measured else None
    if not found:
        return {}
    fall = "" if found["fall_low"] is None else f"({found['fall_low']:.3g} to {found['fall_high']:.3g})"
    cells = {
        "fall of the reward": (_number(found["fall"]), fall),
        "fall in standard deviations": (_number(found["relative_fall"], sign=True), ""),
        "own prompt above": (
            percent(found["own_above"]),
            percents((found["own_above_low"], found["own_above_high"])),
        ),
        "unmoved": (percent(found["unmoved"]), f"of {found['num_videos']}, {found['num_failed']} failed"),
        "rank correlation": (_number(found["spearman"], sign=True), ""),
    }
    if pairs := found["pairs"]:
        cells["without ties, own prompt"] = percent(pairs["own"]), f"of {pairs['num_decided']}"
        cells["without ties, swapped prompt"] = percent(pairs["swapped"]), f"of {pairs['num_decided']}"
        cells["difference"] = percent(pairs["difference"], sign=True), percents(pairs["interval"], sign=True)
    return cells


def describe_spread(measured: Mapping[str, Any] | None) -> dict[str, tuple[str, str]]:
    """Describe spread and length in short texts: value and note by measure, a dash where a number does not exist.

    Args:
        measured: What `measure_hacking` gives, with None for nan; None for a model that gives no reward.
    """
    if measured is None:
        return {}
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
