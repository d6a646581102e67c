"""Summary of an evaluation: accuracy, intervals, calibration, correlation, signs of hacking, figures of thoughts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

import torch
from torch import Tensor

from descore.evaluation.choices import comparisons_of, summarise_choices, summarise_thoughts
from descore.evaluation.folder import Evaluation, reward_of
from descore.evaluation.hacking import measure_hacking
from descore.metrics import (
    accuracy_at,
    bootstrap_interval,
    by_group,
    calibration,
    calls,
    preference_accuracy,
    rank_correlation,
)
from descore.rewards import format_reward, quality_reward
from descore.scoring.folder import Record


def summarise(evaluation: Evaluation, tuned_on: Evaluation | None = None) -> Record:
    """Compute the content of summary.json for a complete evaluation; a number that does not exist is nan.

    Failures are counted of what the model judges: "num_failed_pairs" of one that compares, or "num_failed_videos".

    Args:
        evaluation: Evaluation in which every video has a score record.
        tuned_on: Finished evaluation of another split, whose tie thresholds are applied to this one too.
    """
    info = evaluation.info
    describe = summarise_thoughts if evaluation.is_pairwise else _thoughts
    errors = _pair_errors(evaluation) if evaluation.is_pairwise else _errors(evaluation.videos, evaluation.scores)
    swapped_errors = _errors(evaluation.swapped_videos, evaluation.swapped_scores)
    return {
        "benchmark": info["benchmark"],
        "model": info["model"],
        "protocol": info["protocol"],
        "num_videos": len(evaluation.videos),
        "num_failed_pairs" if evaluation.is_pairwise else "num_failed_videos": sum(errors.values()),
        "num_swapped_videos": len(evaluation.swapped_videos),
        "num_failed_swapped_videos": sum(swapped_errors.values()),
        "errors": errors,
        "swapped_errors": swapped_errors,
        "rejected": info["rejected"],
        "thoughts": describe(evaluation) if info["protocol"]["thoughts"] else None,
        "dimensions": {name: _dimension(evaluation, name, tuned_on) for name in info["dimensions"]},
    }


def _errors(videos: Sequence[Record], scores: Sequence[Record | None]) -> dict[str, int]:
    """Count failed videos by reason, the most frequent first, without the video's name that precedes a reason."""
    reasons = Counter(
        (score["error"] or "no reward").rpartition(f"{video['video']}: ")[2]
        for video, score in zip(videos, scores, strict=True)
        if score is not None and score["reward"] is None
    )
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _pair_errors(evaluation: Evaluation) -> dict[str, int]:
    """Count pairs without a verdict by reason, the most frequent first."""
    errors = Counter(one.error for one in comparisons_of(evaluation) if one.error is not None)
    return dict(sorted(errors.items(), key=lambda item: (-item[1], item[0])))


def _thoughts(evaluation: Evaluation) -> Record:
    truths = _annotations(evaluation)
    scored = [(index, score) for index, score in enumerate(evaluation.scores) if score and _has_thought(score)]
    thoughts = [(index, thought) for index, score in scored for thought in score["each"] or [score]]
    deviations = [score["reward_std"] for _, score in scored if score["reward_std"] is not None]
    if evaluation.info["protocol"].get("fields"):  # another answer than DeScore's, without its dimension scores
        well_formed, qualities = [float(one["overall_score"] is not None) for _, one in thoughts], []
    else:
        well_formed = [format_reward(one["thought"]) for _, one in thoughts]
        qualities = [quality_reward(one["thought"], truths[index]) for index, one in thoughts if index in truths]
    return {
        "well_formed": _mean(well_formed),
        "mean_tokens": _mean([thought["num_thought_tokens"] for _, thought in thoughts]),
        "truncated": _mean([float(thought["truncated"]) for _, thought in thoughts]),
        "quality": _mean(qualities),
        "mean_std": _mean(deviations),
    }


def _has_thought(score: Record) -> bool:
    """Return whether the model thought about a video: also if no reward could be read, but not if it did not decode."""
    return bool(score["each"] or score["thought"] or score["error"] is None)


def _annotations(evaluation: Evaluation) -> dict[int, Record]:
    """Return the annotated dimension scores by the index of the video; the first if a video has several."""
    sides = [(pair[side], pair[f"scores_{side}"]) for pair in evaluation.pairs for side in "ab"]
    return {index: scores for index, scores in reversed(sides) if scores is not None}


def _dimension(evaluation: Evaluation, name: str, tuned_on: Evaluation | None) -> Record:
    margins, preferences = evaluation.margins(name), evaluation.preferences(name)
    prompts = [pair["prompt"] for pair in evaluation.pairs]
    agreement = preference_accuracy(margins, preferences)
    decided, all_pairs = calls(margins, preferences), calls(margins, preferences, agreement.tie_threshold)
    return asdict(agreement) | {
        "without_ties_interval": bootstrap_interval(decided, prompts),
        "with_ties_interval": bootstrap_interval(all_pairs, prompts),
        "fixed_threshold": _fixed(margins, preferences, name, tuned_on),
        "calibration": asdict(calibration(margins, preferences)),
        "correlation": _correlation(evaluation, name),
        "by_generator": _by_generator(evaluation, margins, preferences),
        "by_num_thoughts": _by_num_thoughts(evaluation, name, preferences),
        "hacking": None if evaluation.is_pairwise else measure_hacking(evaluation, name),
        "choices": summarise_choices(evaluation, name),
    }


def _fixed(margins: Tensor, preferences: Tensor, name: str, tuned_on: Evaluation | None) -> Record | None:
    if tuned_on is None or name not in tuned_on.summary["dimensions"]:
        return None
    threshold = tuned_on.summary["dimensions"][name]["tie_threshold"]
    accuracy = accuracy_at(margins, preferences, threshold)
    return {"threshold": threshold, "from": str(tuned_on.folder), "accuracy": accuracy}


def _correlation(evaluation: Evaluation, name: str) -> Record | None:
    opinions = evaluation.opinions(name)
    if evaluation.is_pairwise or opinions.isnan().all():
        return None
    return asdict(rank_correlation(evaluation.rewards(name), opinions))


def _by_generator(evaluation: Evaluation, margins: Tensor, preferences: Tensor) -> dict[str, Record]:
    """Compute the accuracy over the pairs that each generator takes part in; a pair of two generators counts twice."""
    generators = [video["generator"] for video in evaluation.videos]
    taken = [
        (index, generator)
        for index, pair in enumerate(evaluation.pairs)
        for generator in sorted({generators[pair["a"]], generators[pair["b"]]} - {""})
    ]
    rows = torch.tensor([index for index, _ in taken], dtype=torch.int64)
    groups = by_group(margins[rows], preferences[rows], [generator for _, generator in taken])
    return {generator: asdict(agreement) for generator, agreement in groups.items()}


def _by_num_thoughts(evaluation: Evaluation, name: str, preferences: Tensor) -> dict[str, float] | None:
    """Compute the accuracy without ties that 1 to k thoughts per video give.

    For j thoughts it is the mean over the k cyclic windows of j consecutive thoughts: every thought counts equally
    often, and both videos of a pair have the same window.
    """
    k = evaluation.info["protocol"]["thoughts"]
    if k < 2 or not evaluation.pairs or evaluation.is_pairwise:
        return None
    failed = [None] * k
    each = torch.tensor(
        [[reward_of(one, name) for one in (score and score["each"]) or failed] for score in evaluation.scores],
        dtype=torch.float64,
    )  # [num_videos, k]
    a, b = (torch.tensor([pair[side] for pair in evaluation.pairs], dtype=torch.int64) for side in "ab")

    def accuracy(start: int, j: int) -> float:
        rewards = each.roll(-start, 1)[:, :j].nanmean(1)  # over thoughts with a reward, as in scoring
        return preference_accuracy(rewards[a] - rewards[b], preferences).without_ties

    return {str(j): _mean([accuracy(start, j) for start in range(k if j < k else 1)]) for j in range(1, k + 1)}


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan
