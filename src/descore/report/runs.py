"""A page of evaluations: their table, their figures, and the pairs that they got wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from descore.metrics import interval
from descore.report import figures
from descore.report._reader import Evaluation, load_evaluation
from descore.report.figures import Estimate
from descore.report.page import Cell, Figure, Page, Section, Table
from descore.report.viewer import browse, judged_dimension

COIN = 0.5
"""Accuracy of a coin."""

HEADER = (
    "run",
    "dimension",
    "without ties",
    "with ties",
    "pairs",
    "decided",
    "failed",
    "calibration error",
    "protocol",
)


def report_on(folders: Sequence[str | Path], *, title: str = "", num_pairs: int = 40) -> Page:
    """Make the page of one or more evaluations.

    Args:
        folders: Folders of evaluations.
        title: Its heading; the benchmarks, if empty.
        num_pairs: Pairs in its viewer at most.

    Raises:
        FileNotFoundError: If a folder holds no evaluation.
    """
    evaluations = [load_evaluation(folder) for folder in folders]
    runs = dict(zip(names_of([run.folder for run in evaluations]), evaluations, strict=True))
    benchmarks = list(dict.fromkeys(run.info["benchmark"] for run in evaluations))
    colors = figures.colors_of(runs)
    sections = [Section("Runs", _HOW_TO_READ, tables=[table_of(runs)])]
    for benchmark in benchmarks:
        chosen = {name: run for name, run in runs.items() if run.info["benchmark"] == benchmark}
        sections.append(Section(benchmark, figures=figures_of(chosen, colors)))
    return Page(
        title or f"Evaluation on {' and '.join(benchmarks)}",
        sections=sections,
        configuration={name: run.info for name, run in runs.items()},
        viewer=browse(runs, num_pairs=num_pairs),
    )


_HOW_TO_READ = """\
Accuracy is the share of pairs where the video that people prefer has the larger reward. Without ties leaves out the
pairs that people call a tie; with ties counts all pairs, with the best threshold below which a margin is called a tie.
Ranges are 95 % intervals. Failed pairs are in neither."""


def names_of(folders: Sequence[Path]) -> list[str]:
    """Name each folder by the end of its path, as short as it can be without two of one name.

    >>> names_of([Path("/runs/a/val"), Path("/runs/b/val"), Path("/runs/c")])
    ['a/val', 'b/val', 'runs/c']
    >>> names_of([Path("/runs/a"), Path("/runs/b")])
    ['a', 'b']
    """
    parts = [folder.absolute().parts for folder in folders]
    length = next(n for n in range(1, 99) if len({p[-n:] for p in parts}) == len(set(parts)) or n == 98)
    names = ["/".join(part[-length:]).lstrip("/") for part in parts]
    return [name if names.index(name) == i else f"{name} ({i + 1})" for i, name in enumerate(names)]


def table_of(runs: Mapping[str, Evaluation]) -> Table:
    """Return a row per evaluation and reward dimension: both accuracies with intervals, counts, and the protocol."""
    several = len({run.info["benchmark"] for run in runs.values()}) > 1
    rows = []
    for place, (name, run) in enumerate(runs.items()):
        for dimension, result in run.summary["dimensions"].items():
            rows.append([
                Cell(name, run.info["benchmark"] if several else "", series=place),
                dimension,
                _accuracy_cell(result, "without_ties"),
                _accuracy_cell(result, "with_ties"),
                result["num_pairs"],
                result["num_decided"],
                result["num_failed"],
                (result["calibration"] or {}).get("expected_error"),
                protocol_of(run),
            ])
    return Table(HEADER, rows)


def protocol_of(run: Evaluation) -> str:
    """Say in a line how an evaluation scored."""
    protocol = run.info["protocol"]
    num = protocol["thoughts"]
    thoughts = f"{num} thought{'s' if num > 1 else ''}" if num else "no thoughts"
    parts = [thoughts, f"reward from {protocol['reward_from']}", f"{protocol['fps']:g} fps"]
    if num and protocol["temperature"] is not None:
        parts.insert(1, f"temperature {protocol['temperature']:g}")
    if run.info["limit"] is not None:
        parts.append(f"first {run.info['limit']} pairs")
    return ", ".join(parts)


def figures_of(runs: Mapping[str, Evaluation], colors: Mapping[str, str]) -> list[Figure]:
    """Return the figures of evaluations on one benchmark, without those that nothing is known for."""
    makers: Sequence[Callable[[Mapping[str, Evaluation], Mapping[str, str]], Figure | None]] = (
        _accuracies, _generators, _margins, _calibrations, _numbers_of_thoughts
    )  # fmt: skip
    return [figure for make in makers if (figure := make(runs, colors)) is not None]


def _accuracies(runs: Mapping[str, Evaluation], colors: Mapping[str, str]) -> Figure | None:
    series = {
        name: {dimension: _estimate(result) for dimension, result in run.summary["dimensions"].items()}
        for name, run in runs.items()
    }
    picture = figures.bars(series, x_label="accuracy without ties", reference=COIN, colors=colors)
    return Figure(picture, "With 95 % intervals; the dashed line is a coin.", "Accuracy by reward dimension")


def _generators(runs: Mapping[str, Evaluation], colors: Mapping[str, str]) -> Figure | None:
    series = {name: _by_generator(_result(run)) for name, run in runs.items()}
    if not any(series.values()):
        return None
    picture = figures.bars(series, x_label="accuracy without ties", reference=COIN, colors=colors)
    return Figure(picture, "With 95 % intervals; the dashed line is a coin.", "Accuracy by generator")


def _margins(runs: Mapping[str, Evaluation], colors: Mapping[str, str]) -> Figure | None:
    series = {}
    for name, run in runs.items():
        dimension = judged_dimension(run)
        signed = (run.margins(dimension) * run.preferences(dimension)).tolist()
        labels = run.preferences(dimension).tolist()
        series[name] = [
            value for value, label in zip(signed, labels, strict=True) if label in {-1, 1} and value == value
        ]
    if not any(series.values()):
        return None
    picture = figures.margin_histograms(
        series, x_label="reward of the preferred video minus the other's", colors=colors
    )
    caption = "Pairs that people decided; those to the left of 0 are wrong. Each run has its own unit."
    return Figure(picture, caption, "Margins")


def _calibrations(runs: Mapping[str, Evaluation], colors: Mapping[str, str]) -> Figure | None:
    series = {
        name: [(_nan(bin_["confidence"]), _nan(bin_["accuracy"]), bin_["num"]) for bin_ in calibration["bins"]]
        for name, run in runs.items()
        if (calibration := _result(run)["calibration"])
    }
    if not any(bin_[2] for bins in series.values() for bin_ in bins):
        return None
    caption = "On the dashed line a margin is as sure as it is right; below it, it is too sure."
    return Figure(figures.calibration_curves(series, colors=colors), caption, "Calibration")


def _numbers_of_thoughts(runs: Mapping[str, Evaluation], colors: Mapping[str, str]) -> Figure | None:
    series = {
        name: {float(num): Estimate(_nan(accuracy)) for num, accuracy in by_num.items()}
        for name, run in runs.items()
        if (by_num := _result(run)["by_num_thoughts"]) and len(by_num) > 1
    }
    if not series:
        return None
    picture = figures.lines(
        series, x_label="thoughts per video", y_label="accuracy without ties", log_x=True, colors=colors
    )
    return Figure(picture, "The reward is the mean over the thoughts.", "Accuracy by number of thoughts")


def _result(run: Evaluation) -> dict[str, Any]:
    result: dict[str, Any] = run.summary["dimensions"][judged_dimension(run)]
    return result


def _by_generator(result: Mapping[str, Any]) -> dict[str, Estimate]:
    groups = {name: group for name, group in (result["by_generator"] or {}).items() if group["num_decided"]}
    return {
        name: Estimate(group["without_ties"], *interval(group["without_ties"], group["num_decided"]))
        for name, group in groups.items()
    }


def _estimate(result: Mapping[str, Any]) -> Estimate:
    low, high = result["without_ties_interval"] or (None, None)
    return Estimate(_nan(result["without_ties"]), _nan(low), _nan(high))


def _accuracy_cell(result: Mapping[str, Any], name: str) -> Cell:
    low, high = result[f"{name}_interval"] or (None, None)
    note = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    return Cell(_nan(result[name]), note)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
