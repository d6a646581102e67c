"""The `descore` command. Each subcommand is a file in `descore.commands`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from descore import __version__
from descore.commands import compare, doctor, evaluate, importing, replay, report, score, serve
from descore.commands.selecting import pairs, rank, reject
from descore.commands.usage import UsageError
from descore.types import ModelError

COMMANDS = (score, rank, pairs, doctor, importing, evaluate, compare, report, replay, reject, serve)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Command-line arguments; those of the process if not given.

    Returns:
        Exit code: 0 if all is done, 1 if a video or a pair failed, 141 if the reader of its output ended. Options,
        files or a model that cannot be used end the process with 2, and an interrupt with 130.
    """
    parser = make_parser()
    options = parser.parse_args(args)
    try:
        return int(options.run(options))
    except (UsageError, ModelError) as error:
        parser.exit(2, f"descore {options.command}: {error}\n")
    except BrokenPipeError:  # the reader of a pipe has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        parser.exit(130, f"descore {options.command}: interrupted{options.after_interrupt}\n")


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command and its subcommands.

    >>> make_parser().parse_args(["compare", "runs/one", "runs/two"]).json
    False
    """
    parser = argparse.ArgumentParser(
        "descore",
        description="DeScore: a reward model for generated video that thinks before it scores.",
        epilog="`descore COMMAND --help` describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"descore {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    parser.set_defaults(after_interrupt="", version=__version__)
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
