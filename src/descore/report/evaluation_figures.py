"""Figures of one or more evaluations on one benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from descore.evaluation.folder import Evaluation, number
from descore.evaluation.hacking import thought_lengths
from descore.metrics import wilson_interval
from descore.report import figures
from descore.report.figures import Estimate
from descore.report.page import Figure
from descore.report.viewer import judged_dimension

CHANCE = 0.5
"""Accuracy without ties of random rewards."""

_ACCURACY = "accuracy without ties"

Runs = Mapping[str, Evaluation]
Colors = Mapping[str, str]
_Make = Callable[[Runs, Colors], Figure | None]


def figures_of(runs: Runs, colors: Colors) -> list[Figure]:
    """Return all figures of evaluations on one benchmark, except those without data.

    Args:
        runs: Evaluations by the name that the page gives them.
        colors: Colour of each name.
    """
    makers: Sequence[_Make] = (accuracies, generators, margins, calibrations, lengths, numbers_of_thoughts, opinions)
    return [figure for make in makers if (figure := make(runs, colors)) is not None]


def accuracies(runs: Runs, colors: Colors) -> Figure | None:
    """Draw the accuracy without ties by reward dimension; None if no run has pairs."""
    series = {
        name: {dimension: _accuracy(result) for dimension, result in run.summary["dimensions"].items()}
        for name, run in runs.items()
        if run.pairs
    }
    if not series:
        return None
    picture = figures.bars(series, x_label=_ACCURACY, reference=CHANCE, percent=True, colors=colors)
    return Figure(picture, "With 95 % intervals over prompts; the dashed line is chance.", "Accuracy by dimension")


def generators(runs: Runs, colors: Colors) -> Figure | None:
    """Draw the accuracy over the pairs that each generator takes part in; None if no generator is known."""
    series = {
        name: {
            generator: _share(group["without_ties"], group["num_decided"])
            for generator, group in result_of(run)["by_generator"].items()
            if group["num_decided"]
        }
        for name, run in runs.items()
    }
    if not any(series.values()):
        return None
    picture = figures.bars(series, x_label=_ACCURACY, reference=CHANCE, percent=True, colors=colors)
    caption = "Pairs that a generator takes part in, with Wilson's 95 % intervals; the dashed line is chance."
    return Figure(picture, caption, "Accuracy by generator")


def margins(runs: Runs, colors: Colors) -> Figure | None:
    """Draw histograms of decided pairs' margins, negative where the call is wrong; None if no pair is decided."""
    series = {}
    for name, run in runs.items():
        labels = run.preferences(judged_dimension(run))
        signed = run.margins(judged_dimension(run)) * labels
        series[name] = signed[~signed.isnan() & (labels != 0)].tolist()
    if not any(series.values()):
        return None
    label = "reward of the preferred video minus the other's"
    picture = figures.margin_histograms(series, x_label=label, colors=colors)
    caption = "Pairs that people decided; those to the left of 0 are called wrong. Each run has its own unit."
    return Figure(picture, caption, "Margins")


def calibrations(runs: Runs, colors: Colors) -> Figure | None:
    """Draw the accuracy of margins against their confidence; None without decided pairs."""
    series = {
        name: [(bin_["confidence"], _share(bin_["accuracy"], bin_["num"]), bin_["num"]) for bin_ in bins if bin_["num"]]
        for name, run in runs.items()
        if (bins := result_of(run)["calibration"]["bins"])
    }
    if not any(series.values()):
        return None
    caption = (
        "On the dashed line, confidence equals accuracy; below it, the reward is overconfident. With Wilson's 95 % "
        "intervals, which are wide over few pairs."
    )
    return Figure(figures.calibration_curves(series, colors=colors), caption, "Calibration")


def numbers_of_thoughts(runs: Runs, colors: Colors) -> Figure | None:
    """Draw the accuracy of the mean reward over 1 to k thoughts; None if no run has several thoughts per video."""
    series = {
        name: {float(num): Estimate(number(accuracy)) for num, accuracy in by_number.items()}
        for name, run in runs.items()
        if (by_number := result_of(run)["by_num_thoughts"])
    }
    if not series:
        return None
    picture = figures.lines(
        series, x_label="thoughts per video", y_label=_ACCURACY, log_x=True, percent=True, colors=colors
    )
    return Figure(picture, "The reward is the mean over the thoughts.", "Accuracy by number of thoughts")


def opinions(runs: Runs, colors: Colors) -> Figure | None:
    """Draw each video's reward against its mean opinion score; None if there are no opinion scores."""
    series = {}
    for name, run in runs.items():
        x, y = run.opinions(judged_dimension(run)), run.rewards(judged_dimension(run))
        known = ~(x.isnan() | y.isnan())
        series[name] = list(zip(x[known].tolist(), y[known].tolist(), strict=True))
    if not any(series.values()):
        return None
    picture = figures.scatter_plots(series, x_label="opinion score", y_label="reward", colors=colors)
    return Figure(picture, "Each point is a video. Each run has its own unit.", "Rewards and opinion scores")


def lengths(runs: Runs, colors: Colors) -> Figure | None:
    """Draw each video's reward against the length of its thought; None if no run has thoughts of different lengths."""
    series = {}
    for name, run in runs.items():
        x = torch.tensor(thought_lengths(run, judged_dimension(run)))
        y = run.rewards(judged_dimension(run))
        known = ~(x.isnan() | y.isnan())
        if run.info["protocol"]["thoughts"] and len(set(x[known].tolist())) > 1:
            series[name] = list(zip(x[known].tolist(), y[known].tolist(), strict=True))
    if not series:
        return None
    picture = figures.scatter_plots(series, x_label="tokens of the thought", y_label="reward", colors=colors)
    return Figure(picture, "Each point is a video. Each run has its own unit.", "Rewards and lengths of thoughts")


def result_of(run: Evaluation) -> dict[str, Any]:
    """Return a run's summary of the dimension that the page judges pairs by."""
    result: dict[str, Any] = run.summary["dimensions"][judged_dimension(run)]
    return result


def _share(share: float, num: int) -> Estimate:
    return Estimate(share, *wilson_interval(share, num))


def _accuracy(result: Mapping[str, Any]) -> Estimate:
    return Estimate(number(result["without_ties"]), *map(number, result["without_ties_interval"]))
