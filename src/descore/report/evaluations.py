"""The page of one or more evaluations: tables, figures, and the pairs that they got wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from descore.evaluation.comparison import compare, name_runs
from descore.evaluation.folder import Evaluation, load_evaluation, number
from descore.evaluation.hacking import describe_spread, describe_swap, measure_hacking
from descore.evaluation.percentages import percent, percents
from descore.report import figures
from descore.report.evaluation_figures import figures_of, result_of
from descore.report.page import Cell, Highlight, Page, Section, Table
from descore.report.viewer import browse, key_of
from descore.scoring.folder import plain

_HOW_TO_READ = """\
Accuracy is the share of pairs in which the video that people prefer has the larger reward. "Without ties" leaves out
the pairs that people call a tie. "With ties" counts all pairs, and calls a tie where the margin is below the threshold
that fits these pairs best. In brackets are 95 % intervals over prompts. Failed pairs count in neither. ECE is the
expected calibration error: how far the confidence of the rewards is from their accuracy.

A model that compares two videos in one context gives P(A better), P(tie) and P(B better), the means over both orders.
Its margin is the log-odds of P(A better) with half of P(tie), and its verdict the most probable of the three. "Change
with the order" is the share of pairs whose verdict is another one with B first, and "disagreement" the mean share of
the probability that moves."""


_HOW_TO_READ_HACKING = """\
What training a generator on these rewards depends on. Spread is the standard deviation of the rewards within a group:
the videos of one prompt, or the thoughts of one video; beside it, its share of the standard deviation of all rewards.
In a flat group it is at most a hundredth of that, and the group teaches nothing. Length is Spearman's correlation of
rewards with the lengths of the thoughts, over all videos and as the mean within groups, with 95 % intervals over
groups.

Where prompts were swapped, each video was also scored with the prompt of other videos. A reward that reads the prompt
falls; one that does not is unmoved (changes by at most a hundredth of the standard deviation), and calls pairs as well
with a wrong prompt as with the right one. "Own prompt above" is the share of videos with the larger reward for
their own prompt; chance is a half."""


def report_on(
    folders: Sequence[str | Path],
    *,
    title: str = "",
    names: Sequence[str] = (),
    num_pairs: int = 40,
    attention: bool = False,
    device: str | None = None,
    backbone: str | None = None,
) -> Page:
    """Make the page of one or more finished evaluations; `write_page` writes it to a file.

    Args:
        folders: Output folders of `descore evaluate`.
        title: Heading of the page; the names, or else the models, and the benchmarks if empty.
        names: Name of each evaluation on the page; the ends of their folders' paths if empty.
        num_pairs: Largest number of pairs in the viewer.
        attention: Whether to measure what the query tokens attend to, which loads the model of each evaluation.
        device: Device to measure on; the GPU if there is one, or else the CPU, if not given.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Raises:
        FileNotFoundError: If a folder holds no evaluation.
        ValueError: If an evaluation is not finished, there is not one name for each, or its attention cannot be
            measured.
    """
    evaluations = [load_evaluation(folder) for folder in folders]
    for run in evaluations:
        _check_finished(run)
    runs = dict(zip(name_runs([run.folder for run in evaluations], names), evaluations, strict=True))
    benchmarks = list(dict.fromkeys(run.info["benchmark"] for run in evaluations))
    sections = [Section("Runs", _HOW_TO_READ, tables=tables_of(runs))]
    for benchmark in benchmarks:
        chosen = {name: run for name, run in runs.items() if run.info["benchmark"] == benchmark}
        panels = figures_of(chosen, figures.colors_of(runs))
        description = next(iter(chosen.values())).info["description"]
        sections.append(Section(benchmark, description, panels, _differences(chosen, list(runs))))
    sections.append(Section("Signs of hacking", _HOW_TO_READ_HACKING, tables=hacking_tables(runs)))
    options: dict[str, Any] = {"num_pairs": num_pairs, "attention": attention, "device": device, "backbone": backbone}
    return Page(
        title or f"{_listed(_models(runs, names))} on {_listed(benchmarks)}",
        sections=sections,
        configuration={name: run.info for name, run in runs.items()},
        viewer=browse(runs, **options) if any(run.pairs for run in evaluations) else None,
        highlights=[_highlight(name, run, index) for index, (name, run) in enumerate(runs.items()) if run.pairs],
    )


def tables_of(runs: Mapping[str, Evaluation]) -> list[Table]:
    """Return a table of the evaluations on pairs and a table of those with opinion scores, leaving out empty ones."""
    pairs, videos = [], []
    for index, (name, run) in enumerate(runs.items()):
        for dimension, result in run.summary["dimensions"].items():
            head = [Cell(name, series=index), dimension]
            end = [run.info["benchmark"], run.info["model"], protocol_of(run)]
            if run.pairs:
                pairs.append([*head, *_pair_cells(result), *end])
            if result["correlation"]:
                videos.append([*head, *_video_cells(result["correlation"]), *end])
    tables = [
        Table([*_HEAD, "without ties", "with ties", "pairs", "decided", "failed", "ECE", *_END], pairs),
        Table([*_HEAD, "Spearman", "Kendall", "videos", "failed", *_END], videos, "Against opinion scores"),
    ]
    return [table for table in [*tables, _choices_table(runs)] if table.rows]


def _choices_table(runs: Mapping[str, Evaluation]) -> Table:
    """Return the table of the runs whose model compares two videos."""
    rows: list[list[object]] = [
        [
            *(Cell(name, series=index), dimension, percent(found["accuracy"]), found["num_labelled"]),
            *(percent(found["verdict_changes"]), number(found["order_disagreement"]), number(found["p_tie"])),
        ]
        for index, (name, run) in enumerate(runs.items())
        for dimension, result in run.summary["dimensions"].items()
        if (found := result.get("choices"))
    ]
    measures = ("verdicts right, ties included", "labelled", "change with the order", "disagreement", "P(tie)")
    return Table([*_HEAD, *measures], rows, "Compared in both orders")


def hacking_tables(runs: Mapping[str, Evaluation]) -> list[Table]:
    """Return the tables of signs that rewards can be hacked, by run and reward dimension, leaving out empty ones."""
    measured = [
        (index, name, dimension, plain(measure_hacking(run, dimension)))
        for index, (name, run) in enumerate(runs.items())
        for dimension in run.summary["dimensions"]
        if not run.is_pairwise
    ]
    described = (("Spread and length", describe_spread), ("Prompt swapped", describe_swap))
    tables = [
        _measures_table(caption, [(*row, describe(found)) for *row, found in measured])
        for caption, describe in described
    ]
    return [table for table in tables if table.rows]


def _measures_table(caption: str, measured: Sequence[tuple[int, str, str, Mapping[str, tuple[str, str]]]]) -> Table:
    columns = list(dict.fromkeys(column for *_, cells in measured for column in cells))
    rows = [
        [Cell(name, series=index), dimension, *(Cell(*cells.get(column, ("-",))) for column in columns)]
        for index, name, dimension, cells in measured
        if cells
    ]
    return Table([*_HEAD, *columns], rows, caption)


def protocol_of(run: Evaluation) -> str:
    """Describe in one line how an evaluation scored its videos."""
    protocol = run.info["protocol"]
    num = protocol["thoughts"]
    parts = [f"{num} thought{'s' if num > 1 else ''}" if num else "no thoughts"]
    if num:
        parts.append(f"temperature {protocol['temperature']:g}")
    parts += [f"reward from {protocol['reward_from'].replace('_', ' ')}", f"{protocol['fps']:g} frames per second"]
    if run.info["limit"] is not None:
        parts.append(f"first {run.info['limit']} of the table")
    return ", ".join(parts)


_HEAD, _END = ("run", "dimension"), ("benchmark", "model", "protocol")


def _models(runs: Mapping[str, Evaluation], names: Sequence[str]) -> list[str]:
    return list(names) or list(dict.fromkeys(run.info["model"] for run in runs.values()))


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _check_finished(run: Evaluation) -> None:
    if not run.summary:
        raise ValueError(
            f"{run.folder} is not finished: {run.num_scored} of {run.num_to_score} videos are scored; "
            "repeat its `descore evaluate` command to finish it, then make the page"
        )


def _highlight(name: str, run: Evaluation, index: int) -> Highlight:
    result = result_of(run)
    if result["without_ties"] is None:
        return Highlight("-", name, "no pair that people decided", series=index)
    measured = f"accuracy without ties {percents(result['without_ties_interval'])}".rstrip()
    note = f"{measured}, decided pairs: {result['num_decided']}"
    return Highlight(percent(result["without_ties"]), name, note, series=index)


def _pair_cells(result: Mapping[str, Any]) -> list[object]:
    accuracies = [
        Cell(percent(result[name]), percents(result[f"{name}_interval"])) for name in ("without_ties", "with_ties")
    ]
    counts = [result[name] for name in ("num_pairs", "num_decided", "num_failed")]
    return [*accuracies, *counts, percent(result["calibration"]["expected_error"])]


def _video_cells(correlation: Mapping[str, Any]) -> list[object]:
    values = [number(correlation[name]) for name in ("spearman", "kendall")]
    return [*values, correlation["num_videos"], correlation["num_failed"]]


def _differences(runs: Mapping[str, Evaluation], names: Sequence[str]) -> list[Table]:
    """Return a table that compares each evaluation with the first on the pairs that all share; empty without such."""
    shared = set.intersection(*({key_of(run, pair) for pair in run.pairs} for run in runs.values()))
    if len(runs) < 2 or not shared:
        return []
    rows = [
        [
            Cell(name, series=names.index(name)),
            dimension,
            percent(record["accuracy"]),
            Cell(percent(record["difference"], sign=True), percents(record["difference_interval"], sign=True)),
            "-" if record["p_value"] is None else f"{record['p_value']:.2g}",
            record["num_pairs"],
        ]
        for dimension, records in plain(compare(list(runs.values())))["dimensions"].items()
        for name, record in list(zip(runs, records, strict=True))[1:]
    ]
    header = ("run", "dimension", "without ties", "difference", "p (McNemar)", "decided")
    return [Table(header, rows, f"Compared with {next(iter(runs))}, on the {len(shared)} pairs that all runs share")]
