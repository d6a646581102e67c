"""What commands have in common: the error of a wrong use, and the option that names runs."""

from __future__ import annotations

import argparse


class UsageError(ValueError):
    """Options, files or a model that a command cannot work with; the message says why, and what to do."""


def add_names(command: argparse.ArgumentParser) -> None:
    """Add the option that names the runs of a command."""
    command.add_argument(
        "--name",
        action="append",
        default=[],
        help="name of a run; give one for each run, in their order (default: the ends of their paths)",
    )
