"""`descore replay`: re-run a skipped training step, one pair at a time, to find what was not finite."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from descore.commands.usage import UsageError


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    again = commands.add_parser(
        "replay",
        help="re-run a skipped training step, one pair at a time",
        description="Re-run a training step that was skipped because its loss or gradient was not finite. Each pair is "
        "run forward and backward on its own, with the weights and the thoughts of that step. The table names what is "
        "not finite first: the output of a module, the loss, or a gradient. The exit code is 1 if a pair fails again.",
    )
    again.add_argument(
        "folder", type=Path, help="folder of the skipped step, such as runs/stage1/version_0/skipped/step-12"
    )
    again.add_argument("--device", help="device to run on, such as cpu or cuda:0 (default: the GPU if there is one)")
    again.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    import torch

    from descore.objectives.replay import replay
    from descore.video.checks import VideoError

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    table = Table("rank", "pair", "loss", "reward A", "reward B", "gradient", "not finite first in")
    reasons = []
    try:
        for one in track(replay(options.folder, device), "Replaying", console=Console(stderr=True)):
            numbers = [f"{number:.6g}" for number in (one.loss, one.reward_a, one.reward_b, one.gradient_norm)]
            table.add_row(str(one.rank), one.pair, *numbers, one.reason)
            reasons.append(one.reason)
    except (FileNotFoundError, VideoError) as error:
        raise UsageError(error) from error
    Console().print(table)
    return 1 if any(reasons) else 0
