"""`descore compare`: compare evaluations of one benchmark with the first of them, pair by pair."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from descore.commands.usage import UsageError, add_names
from descore.evaluation.percentages import percent, percents

if TYPE_CHECKING:
    from descore.scoring.folder import Record

EXAMPLES = """example:
  descore compare runs/evaluations/stage1 runs/evaluations/stage2

The table shows, over the pairs that all evaluations share: accuracy without ties, the difference to the first
evaluation, and McNemar's exact p-value. Intervals are 95 %, over prompts. Single videos are compared by Spearman's
rank correlation with the opinion scores.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "compare",
        help="compare evaluations of one benchmark, pair by pair",
        description="Compare evaluations of one benchmark with the first of them, pair by pair.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="output folders of at least two finished `descore evaluate` commands; the first one is the baseline",
    )
    add_names(command)
    command.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from descore.evaluation.comparison import compare, name_runs
    from descore.evaluation.folder import load_evaluation
    from descore.scoring.folder import plain

    try:
        names = name_runs(options.runs, options.name)
        found = plain(compare([load_evaluation(folder) for folder in options.runs]))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(error) from error
    if options.json:
        print(json.dumps(found, indent=2, allow_nan=False))
        return 0
    console = Console()
    console.print(f"{found['benchmark']}: {found['num_pairs']} pairs, {found['num_videos']} videos", highlight=False)
    for dimension, records in found["dimensions"].items():
        console.print(_table(dimension, dict(zip(names, records, strict=True)), pairs=found["num_pairs"] > 0))
    return 0


def _table(dimension: str, runs: Mapping[str, Record], *, pairs: bool) -> Table:
    """Make a table of at most 80 columns: intervals stand below their values, and a long name runs over lines."""
    rated = any(record["spearman"] is not None for record in runs.values())
    columns = ["without ties", "decided", "difference", "p"] if pairs else []
    run = Column("run", overflow="fold")
    table = Table(run, title=escape(dimension), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in [*columns, *(["Spearman"] if rated else [])]:
        table.add_column(column, no_wrap=True)
    for name, record in runs.items():
        cells = [escape(name)]
        if pairs:
            cells += [f"{percent(record['accuracy'])}\n{percents(record['interval'])}", str(record["num_pairs"])]
            cells += _difference(record)
        if rated:
            cells.append("-" if record["spearman"] is None else f"{record['spearman']:.3f}")
        table.add_row(*cells)
    return table


def _difference(record: Record) -> list[str]:
    if "difference" not in record:
        return ["", ""]
    interval = percents(record["difference_interval"], sign=True)
    p_value = "-" if record["p_value"] is None else f"{record['p_value']:.2g}"
    return [f"{percent(record['difference'], sign=True)}\n{interval}", p_value]
