"""`descore evaluate`: how often a model agrees with people, on a benchmark or any table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console
from rich.table import Table

from descore.commands.formatting import percent, percents
from descore.evaluation.benchmark_files import known_benchmarks
from descore.inputs.settings import RewardSource
from descore.tables.pairs import OnBadRow

if TYPE_CHECKING:
    from descore.evaluation.benchmark import Benchmark
    from descore.evaluation.folder import Evaluation, Record

EXAMPLES = """examples:
  descore evaluate --model runs/stage1/version_0/export/last --benchmark rendered_ood --output runs/evaluations/ood
  descore evaluate --model runs/stage1/version_0/export/last --table data/pairs.csv --output runs/evaluations/mine
  descore evaluate --model FOLDER --benchmark videogen_rewardbench --root data/videogen --output runs/videogen
  descore evaluate ... --num-thoughts 8                  what more thoughts buy
  descore evaluate ... --shard 1/4                       one of four machines; the last to end writes the summary
  descore evaluate ... --tie-threshold-from runs/evaluations/val

A command that was killed goes on where it was: run it again. It ends with the same numbers, to the byte.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "evaluate",
        help="compare rewards with what people prefer, on a benchmark",
        description="Score every video of a benchmark once, and say how often the rewards agree with people.",
        epilog=f"{EXAMPLES}\nbenchmarks: {', '.join(sorted(known_benchmarks())) or 'none in conf/benchmarks'}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option("--model", required=True, help="exported folder or hub id")
    option("--output", required=True, type=Path, help="the evaluation's folder; one that was begun goes on")
    option("--benchmark", help="a name, or the path of a YAML")
    option("--table", type=Path, help="any table; with --benchmark, one to read instead of the benchmark's")
    option("--root", type=Path, help="folder of the benchmark's data")
    option("--preset", help="layout of --table (default descore)")
    option("--dimensions", type=_names, help="reward dimensions to compare, such as VQ,TA")
    option("--num-thoughts", type=int, default=1, metavar="K", help="thoughts per video, averaged (default 1)")
    option("--no-thoughts", action="store_true", help="score at once, without thinking")
    option("--temperature", type=float, help="of sampling; 0 for one thought and 1 for several, if not given")
    option("--reward-from", choices=get_args(RewardSource), help="what the reward is read from, if not as trained")
    option("--limit", type=int, metavar="N", help="only the first N pairs, or single videos")
    option("--shard", type=_shard, default=(1, 1), metavar="I/N", help="score part I of N")
    option("--batch-size", type=int, default=8, help="videos scored together (default 8)")
    option("--device", help="such as cpu or cuda:0; a GPU if there is one")
    option(
        "--on-bad-row", choices=get_args(OnBadRow), default="error", help="stop, or leave out bad rows and count them"
    )
    option("--skip-missing", action="store_true", help="go on where videos are not there; they count as failed")
    option("--tie-threshold-from", type=Path, metavar="RUN", help="also try the tie thresholds of another split's run")
    command.set_defaults(run=_evaluate)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _shard(text: str) -> tuple[int, int]:
    try:
        part, parts = map(int, text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected I/N, such as 1/4 for the first of four, got {text!r}") from error
    return part, parts


def _evaluate(options: argparse.Namespace) -> int:
    from descore.evaluation.folder import EvaluationError
    from descore.evaluation.run import EvaluationProtocol, evaluate
    from descore.thinking.readout import ReadoutError

    try:
        evaluation = evaluate(
            options.model,
            _benchmark(options),
            options.output,
            protocol=EvaluationProtocol(
                num_thoughts=options.num_thoughts,
                thoughts=not options.no_thoughts,
                temperature=options.temperature,
                reward_from=options.reward_from,
                batch_size=options.batch_size,
            ),
            limit=options.limit,
            shard=options.shard,
            device=options.device,
            on_bad_row=options.on_bad_row,
            skip_missing=options.skip_missing,
            tie_threshold_from=options.tie_threshold_from,
        )
    except (EvaluationError, ReadoutError, FileNotFoundError, ImportError) as error:
        raise SystemExit(f"descore evaluate: {error}") from error
    if not evaluation.is_complete:
        _say_left(evaluation)
        return 0
    show(evaluation)
    return 1 if evaluation.summary["num_failed_videos"] else 0


def _benchmark(options: argparse.Namespace) -> Benchmark:
    from descore.evaluation.benchmark import load_benchmark, table_benchmark

    try:
        if options.benchmark:
            if options.preset:
                raise ValueError("--preset goes with --table alone: a benchmark's YAML has its own")
            return load_benchmark(
                options.benchmark, root=options.root, table=options.table, dimensions=options.dimensions
            )
        if options.table is None:
            raise ValueError("expected --benchmark NAME or --table FILE")
        preset, dimensions = options.preset or "descore", options.dimensions or ["overall"]
        return table_benchmark(options.table, root=options.root, preset=preset, dimensions=dimensions)
    except ValueError as error:
        raise SystemExit(f"descore evaluate: {error}") from error


def _say_left(evaluation: Evaluation) -> None:
    done = sum(score is not None for score in evaluation.scores)
    print(
        f"{done} of {len(evaluation.scores)} videos are scored in {evaluation.folder}. The shard that ends last writes "
        "the summary; where shards wrote elsewhere, bring their scores-*.jsonl here and run any of them again."
    )


def show(evaluation: Evaluation) -> None:
    """Print a table of a finished evaluation."""
    info, summary = evaluation.info, evaluation.summary
    console = Console()
    console.print(f"{summary['benchmark']}: {summary['model']}", highlight=False)
    console.print(describe_protocol(summary["protocol"]), highlight=False)
    table = Table("dimension", *(_pair_columns(summary) if info["num_pairs"] else _video_columns()))
    for name, numbers in summary["dimensions"].items():
        table.add_row(name, *(_pair_cells(numbers) if info["num_pairs"] else _video_cells(numbers)))
    console.print(table)
    for name, numbers in summary["dimensions"].items():
        if bought := numbers["by_num_thoughts"]:
            cells = ", ".join(f"{count}: {percent(accuracy)}" for count, accuracy in bought.items())
            console.print(f"{name} without ties by thoughts per video: {cells}", highlight=False)
    failed = f"{summary['num_failed_videos']} of {summary['num_videos']} videos failed"
    rejected = "".join(f", {count} rows left out ({reason})" for reason, count in summary["rejected"].items())
    console.print(f"{failed}{rejected}", highlight=False)
    for reason, count in list(summary["errors"].items())[:5]:
        console.print(f"  {count}: {reason}", highlight=False, markup=False)
    console.print(str(evaluation.folder / "summary.json"), highlight=False, soft_wrap=True)


def describe_protocol(protocol: Record) -> str:
    """Say in a line how videos were scored."""
    return (
        f"{protocol['kind']}, reward from {protocol['reward_from'].replace('_', ' ')}, {_thoughts(protocol)}, "
        f"{protocol['min_frames']} to {protocol['max_frames']} frames at {protocol['fps']:g} a second, "
        f"{protocol['min_pixels']} to {protocol['max_pixels']} pixels a frame"
    )


def _thoughts(protocol: Record) -> str:
    if not protocol["thoughts"]:
        return "no thoughts"
    number = "1 thought" if protocol["thoughts"] == 1 else f"{protocol['thoughts']} thoughts"
    return f"{number} a video at temperature {protocol['temperature']:g}"


def _pair_columns(summary: Record) -> list[str]:
    fixed = any(numbers["fixed_threshold"] for numbers in summary["dimensions"].values())
    return ["without ties", "decided", "with ties", *(["at the other's threshold"] if fixed else []), "pairs", "failed"]


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
