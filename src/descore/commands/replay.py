"""`descore replay`: take a training step that went wrong again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    again = commands.add_parser(
        "replay",
        help="take a skipped training step again, pair by pair",
        description="Take a training step that was skipped, since it was not finite, again: forward and backward of "
        "each pair by itself, with the model and the thoughts of that step. The exit code is 1 if it is still not "
        "finite.",
    )
    again.add_argument("folder", type=Path, help="such as runs/stage1/version_0/skipped/step-12")
    again.add_argument("--device", help="such as cpu or cuda:0; a GPU if there is one")
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
        raise SystemExit(f"descore replay: {error}") from error
    Console().print(table)
    return 1 if any(reasons) else 0
