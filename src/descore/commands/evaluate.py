"""`descore evaluate`: measure how often rewards agree with people, on a benchmark or any table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console
from rich.table import Table

from descore.commands.scoring_options import add_model_option, add_scoring_options, protocol_of
from descore.commands.usage import UsageError
from descore.evaluation.benchmark_files import known_benchmarks
from descore.evaluation.percentages import percent, percents
from descore.tables.pairs import OnBadRow

if TYPE_CHECKING:
    from descore.evaluation.benchmark import Benchmark
    from descore.evaluation.folder import Evaluation
    from descore.scoring.folder import Record

EXAMPLES = """examples:
  descore evaluate --model runs/stage1 --benchmark rendered_ood --output runs/evaluations/ood
  descore evaluate --model runs/stage1 --table data/pairs.csv --output runs/evaluations/mine
  descore evaluate --model FOLDER --benchmark videogen_rewardbench --root data/videogen --output runs/videogen
  descore evaluate ... --num-thoughts 8                  accuracy by number of thoughts, 1 to 8
  descore evaluate ... --shard 1/4                       the first of four machines that share --output
  descore evaluate ... --swap-prompts                    does the reward read the prompt? at twice the cost
  descore evaluate ... --tie-threshold-from runs/evaluations/val

To resume a killed evaluation, repeat its command: it scores the remaining videos, and ends with the same numbers, to
the byte. The exit code is 1 if a video failed.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "evaluate",
        help="measure how often rewards agree with people, on a benchmark or a table",
        description="Score every video of a benchmark or a table once, and measure how often the rewards agree\n"
        "with the labels that people gave.",
        epilog=f"{EXAMPLES}\nbenchmarks: {', '.join(sorted(known_benchmarks()))}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_option(command)
    command.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder for the results; an unfinished evaluation in it is resumed",
    )
    _add_data_options(command.add_argument_group("data"))
    add_scoring_options(command.add_argument_group("scoring"))
    command.set_defaults(run=_evaluate, after_interrupt="; repeat the command to resume it")


def _add_data_options(group: Any) -> None:
    option = group.add_argument
    option(
        "--benchmark", metavar="NAME", help="benchmark to evaluate on: one of the list below, or a path of a YAML file"
    )
    option(
        "--table",
        type=Path,
        metavar="FILE",
        help="table to evaluate on; with --benchmark, a table to read instead of the benchmark's own",
    )
    option(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="folder of the benchmark's data (default: the one that its YAML file names, or the folder of --table)",
    )
    option("--preset", help="layout of --table, such as videoalign; docs/data.md lists all (default descore)")
    option(
        "--dimensions",
        type=_names,
        metavar="NAME,...",
        help="reward dimensions to compare, such as VQ,TA (default: those of the benchmark, or overall for a table)",
    )
    option("--limit", type=int, metavar="N", help="evaluate only the first N pairs, or single videos, of the table")
    option(
        "--on-bad-row",
        choices=get_args(OnBadRow),
        default="error",
        help="what to do about a row that cannot be used: stop with an error, or leave it out and count it "
        "(default error)",
    )
    option(
        "--skip-missing",
        action="store_true",
        help="evaluate although video files are missing, and count those as failed (default: stop before scoring)",
    )
    option(
        "--tie-threshold-from",
        type=Path,
        metavar="RUN",
        help="finished evaluation of another split: also compute the accuracy at its tie thresholds, which were not "
        "tuned on these pairs",
    )
    option(
        "--swap-prompts",
        action="store_true",
        help="score each video with the prompt of other videos too, at twice the cost, and measure how far the reward "
        "depends on the prompt",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _evaluate(options: argparse.Namespace) -> int:
    from descore.evaluation.run import evaluate
    from descore.scoring.folder import ScoringError

    try:
        evaluation = evaluate(
            options.model,
            _benchmark(options),
            options.output,
            protocol=protocol_of(options),
            limit=options.limit,
            shard=options.shard,
            device=options.device,
            on_bad_row=options.on_bad_row,
            skip_missing=options.skip_missing,
            tie_threshold_from=options.tie_threshold_from,
            backbone=options.backbone,
            with_swapped_prompts=options.swap_prompts,
        )
    except (ScoringError, OSError, ImportError) as error:
        raise UsageError(error) from error
    if not evaluation.is_complete:
        _print_progress(evaluation)
        return 0
    print_summary(evaluation)
    failed = _num_failed(evaluation) + evaluation.summary["num_failed_swapped_videos"]
    return 1 if failed else 0


def _num_failed(evaluation: Evaluation) -> int:
    """Return the number of pairs, or of videos, that failed."""
    return int(evaluation.summary["num_failed_pairs" if evaluation.is_pairwise else "num_failed_videos"])


def _benchmark(options: argparse.Namespace) -> Benchmark:
    from descore.evaluation.benchmark import load_benchmark, table_benchmark

    try:
        if options.benchmark:
            if options.preset:
                raise ValueError("--preset goes with --table alone: the YAML file of a benchmark names its preset")
            return load_benchmark(
                options.benchmark, root=options.root, table=options.table, dimensions=options.dimensions
            )
        if options.table is None:
            raise ValueError("expected --benchmark NAME or --table FILE, got neither")
        preset, dimensions = options.preset or "descore", options.dimensions or ["overall"]
        return table_benchmark(options.table, root=options.root, preset=preset, dimensions=dimensions)
    except ValueError as error:
        raise UsageError(error) from error


def _print_progress(evaluation: Evaluation) -> None:
    judged = "pairs are compared" if evaluation.is_pairwise else "videos are scored"
    print(
        f"{evaluation.num_scored} of {evaluation.num_to_score} {judged} in {evaluation.folder}. The shard "
        "that finishes last writes the summary. If other shards wrote to other folders, copy their scores-*.jsonl into "
        "this one and repeat this command."
    )


def print_summary(evaluation: Evaluation) -> None:
    """Print the summary of a finished evaluation as a table, with its protocol and the reasons of failures."""
    info, summary = evaluation.info, evaluation.summary
    console = Console()
    console.print(f"{summary['benchmark']}: {summary['model']}", highlight=False)
    console.print(protocol_line(summary["protocol"]), highlight=False)
    table = Table("dimension", *(_pair_columns(summary) if info["num_pairs"] else _video_columns()))
    for name, numbers in summary["dimensions"].items():
        table.add_row(name, *(_pair_cells(numbers) if info["num_pairs"] else _video_cells(numbers)))
    console.print(table)
    for name, numbers in summary["dimensions"].items():
        if by_number := numbers["by_num_thoughts"]:
            cells = ", ".join(f"{count}: {percent(accuracy)}" for count, accuracy in by_number.items())
            console.print(f"{name} without ties by number of thoughts per video: {cells}", highlight=False)
    _print_choices(console, summary["dimensions"])
    _print_signs_of_hacking(console, summary["dimensions"])
    judged = f"{info['num_pairs']} pairs" if evaluation.is_pairwise else f"{summary['num_videos']} videos"
    failed = f"{_num_failed(evaluation)} of {judged} failed"
    rejected = "".join(f", {count} rows left out ({reason})" for reason, count in summary["rejected"].items())
    console.print(f"{failed}{rejected}", highlight=False)
    _print_reasons(console, summary["errors"])
    if num_swapped := summary["num_swapped_videos"]:
        failed = summary["num_failed_swapped_videos"]
        console.print(f"{failed} of {num_swapped} videos with swapped prompts failed", highlight=False)
        _print_reasons(console, summary["swapped_errors"])
    console.print(str(evaluation.folder / "summary.json"), highlight=False, soft_wrap=True)


def _print_reasons(console: Console, errors: Record) -> None:
    for reason, count in list(errors.items())[:5]:
        console.print(f"  {count}: {reason}", highlight=False, markup=False)


def _print_choices(console: Console, dimensions: Mapping[str, Record]) -> None:
    """Print what a model that compares two videos adds: three outcomes, and how far they depend on the order."""
    for name, numbers in dimensions.items():
        if found := numbers.get("choices"):
            verdicts = f"{percent(found['accuracy'])} of {found['num_labelled']} verdicts are the label, ties included"
            orders = f"{percent(found['verdict_changes'])} change with the order of the videos"
            means = ", ".join(
                f"mean {text} {'-' if found[key] is None else format(found[key], '.3f')}"
                for key, text in (("p_tie", "P(tie)"), ("order_disagreement", "disagreement of the orders"))
            )
            console.print(f"{name}: {verdicts}; {orders}; {means}", highlight=False)


def _print_signs_of_hacking(console: Console, dimensions: Mapping[str, Record]) -> None:
    from descore.evaluation.hacking import describe_spread, describe_swap

    for title, describe in (("signs of hacking", describe_spread), ("prompt swapped", describe_swap)):
        described = {name: describe(numbers["hacking"]) for name, numbers in dimensions.items()}
        if any(described.values()):
            console.print(_measures_table(title, described))


def _measures_table(title: str, described: Mapping[str, Mapping[str, tuple[str, str]]]) -> Table:
    table = Table(title, *described)
    for measure in next(iter(described.values())):
        table.add_row(measure, *(" ".join(cells[measure]).rstrip() for cells in described.values()))
    return table


def protocol_line(protocol: Record) -> str:
    """Describe in one line how an evaluation scored its videos.

    Args:
        protocol: The "protocol" of evaluation.json.
    """
    return (
        f"{protocol['kind']}, reward from {protocol['reward_from'].replace('_', ' ')}, {_thoughts(protocol)}, "
        f"{protocol['min_frames']} to {protocol['max_frames']} frames at {protocol['fps']:g} per second, "
        f"{protocol['min_pixels']} to {protocol['max_pixels']} pixels per frame"
    )


def _thoughts(protocol: Record) -> str:
    if not protocol["thoughts"]:
        return "no thoughts"
    number = "1 thought" if protocol["thoughts"] == 1 else f"{protocol['thoughts']} thoughts"
    return f"{number} per video at temperature {protocol['temperature']:g}"


def _pair_columns(summary: Record) -> list[str]:
    fixed = any(numbers["fixed_threshold"] for numbers in summary["dimensions"].values())
    threshold = ["at the other split's threshold"] if fixed else []
    return ["without ties", "decided", "with ties", *threshold, "pairs", "failed"]


def _pair_cells(numbers: Record) -> list[str]:
    fixed = numbers["fixed_threshold"]
    return [
        f"{percent(numbers['without_ties'])} {percents(numbers['without_ties_interval'])}",
        str(numbers["num_decided"]),
        f"{percent(numbers['with_ties'])} {percents(numbers['with_ties_interval'])}",
        *([percent(fixed["accuracy"])] if fixed else []),
        str(numbers["num_pairs"]),
        str(numbers["num_failed"]),
    ]


def _video_columns() -> list[str]:
    return ["Spearman", "Kendall", "videos", "failed"]


def _video_cells(numbers: Record) -> list[str]:
    found = numbers["correlation"]
    if found is None:
        return ["-", "-", "0", "0"]
    values = ["-" if found[key] is None else f"{found[key]:.3f}" for key in ("spearman", "kendall")]
    return [*values, str(found["num_videos"]), str(found["num_failed"])]
