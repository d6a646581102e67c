"""`descore report`: one page of evaluations to look at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  descore report runs/evaluations/ood
  descore report runs/evaluations/stage1 runs/evaluations/stage2 --output page.html --pairs 100

The page is one file that loads nothing. What several evaluations say of a pair is shown side by side.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "report",
        help="make a page of evaluations: their figures, and the pairs that they got wrong",
        description="Make one HTML file of one or more evaluations: their accuracies, their figures, and pairs to look "
        "through, the worst errors first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of `descore evaluate`")
    command.add_argument("--output", type=Path, default=Path("report.html"), help="the file (default report.html)")
    command.add_argument("--title", default="", help="heading of the page; the benchmarks if not given")
    command.add_argument("--pairs", type=int, default=40, metavar="N", help="pairs to show at most (default 40)")
    command.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    try:
        from descore.report import report_on, write_page

        page = report_on(options.runs, title=options.title, num_pairs=options.pairs)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise SystemExit(f"descore report: {error}") from error
    path = write_page(page, options.output)
    shown = f", {page.viewer.num_shown} of {page.viewer.num_pairs} pairs" if page.viewer else ""
    print(f"{path}: {len(options.runs)} evaluations{shown}, {path.stat().st_size / 1e6:.1f} MB")
    return 0
