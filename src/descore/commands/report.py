"""`descore report`: make an HTML page of evaluations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from descore.commands.usage import UsageError, add_names

EXAMPLES = """examples:
  descore report runs/evaluations/ood
  descore report runs/evaluations/stage1 runs/evaluations/stage2 --output page.html --pairs 100
  descore report runs/evaluations/ood --attention --pairs 10

The page is one self-contained file. Several evaluations of one benchmark are shown side by side, pair by pair.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "report",
        help="make an HTML page of evaluations: figures, and the pairs that they got wrong",
        description="Make one HTML file of one or more finished evaluations: accuracies, figures, and pairs of\n"
        "videos to look through, the worst errors first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of `descore evaluate`")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="HTML file to write (default report.html)",
    )
    add_names(command)
    command.add_argument("--title", default="", help="heading of the page (default: the names of the benchmarks)")
    command.add_argument(
        "--pairs",
        type=int,
        default=40,
        metavar="N",
        help="largest number of pairs to show (default 40); more pairs make a larger file",
    )
    command.add_argument(
        "--attention",
        action="store_true",
        help="show what the query token attends to: the shares of video, prompt and thought, and a heat map over the "
        "frames. Loads the model of each run, from where `descore evaluate` found it",
    )
    command.add_argument("--device", help="for --attention: device to run on (default: the GPU if there is one)")
    command.add_argument("--backbone", help="for --attention: backbone of an adapter, if it is not where it says")
    command.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    if not options.attention and (options.device or options.backbone):
        raise UsageError("--device and --backbone are for --attention, which loads the models")
    try:
        from descore.report import report_on, write_page

        page = report_on(
            options.runs,
            title=options.title,
            names=options.name,
            num_pairs=options.pairs,
            attention=options.attention,
            device=options.device,
            backbone=options.backbone,
        )
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise UsageError(error) from error
    path = write_page(page, options.output)
    shown = f", {page.viewer.num_shown} of {page.viewer.num_pairs} pairs" if page.viewer else ""
    print(f"{path}: {len(options.runs)} evaluations{shown}, {path.stat().st_size / 1e6:.1f} MB")
    return 0
