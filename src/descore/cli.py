"""The `descore` command; its subcommands are in `descore.commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from descore.commands import compare, evaluate, replay, report, score
from descore.types import ModelError

COMMANDS = (score, evaluate, compare, report, replay)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 if a video failed, and 2 if the command or its model cannot be used."""
    parser = make_parser()
    options = parser.parse_args(args)
    try:
        return int(options.run(options))
    except ModelError as error:
        parser.exit(2, f"descore: {error}\n")


def make_parser() -> argparse.ArgumentParser:
    """Describe the command's options."""
    parser = argparse.ArgumentParser("descore", description="DeScore: a reward model for generated video.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
