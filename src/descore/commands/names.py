"""The option `--name`, which commands on several evaluations share."""

from __future__ import annotations

import argparse


def add_names(command: argparse.ArgumentParser) -> None:
    """Add the option that names the runs of a command."""
    command.add_argument(
        "--name",
        action="append",
        default=[],
        help="name of a run; give one for each run, in their order (default: the ends of their paths)",
    )
