"""`descore reject`: rejection sampling, the thoughts about pairs whose verdict is right, to be trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from descore.commands.usage import UsageError

EXAMPLES = """examples:
  descore evaluate --model runs/unifiedreward_think --table train.jsonl --num-thoughts 4 --output runs/thoughts
  descore reject runs/thoughts --output kept.jsonl

The model, which compares two videos and thinks, has written thoughts about each pair with A first and with B first. The
first one of each order whose verdict is the label is kept, in the columns thought_a_first and thought_b_first; a pair
without any is left out. Train on the output from the same model, in descore.modules.choice:
  --model.backbone runs/unifiedreward_think/version_0/export/best/backbone --data.train kept.jsonl

descore evaluate resumes, and takes parts of a table by --shard. The exit code is 1 if none is kept.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "reject",
        help="keep a model's own thoughts about pairs where they are right: rejection sampling",
        description="Rejection sampling: of the thoughts of a model about labelled pairs, keep those whose verdict is "
        "the label.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option("evaluation", help="folder of a finished `descore evaluate` of a model that compares two videos and thinks")
    option("--output", required=True, type=Path, metavar="FILE.jsonl", help="table of pairs to write")
    command.set_defaults(run=_reject)


def _reject(options: argparse.Namespace) -> int:
    from descore.evaluation.folder import load_evaluation
    from descore.evaluation.rejection import right_thoughts
    from descore.scoring.folder import ScoringError
    from descore.tables.writer import check_output, write_pairs

    if options.output.exists() or options.output.suffix != ".jsonl":
        raise UsageError(f"expected an output that does not exist and ends in .jsonl, got {options.output}")
    try:
        evaluation = load_evaluation(options.evaluation)
        check_output(options.output, [evaluation.info["table"]])
        pairs = right_thoughts(evaluation)
        kept = [pair for pair in pairs if any(pair.thoughts)]
        if kept:
            write_pairs(options.output, kept, dimensions=evaluation.info["dimensions"])
    except (ScoringError, ImportError, ValueError, OSError) as error:
        raise UsageError(error) from error
    orders = sum(bool(text) for pair in kept for text in pair.thoughts)
    told = f"kept {orders} of {2 * len(pairs)} orders, of {len(kept)} of {len(pairs)} pairs"
    print(f"{told}: {options.output if kept else 'nothing is written'}")
    return 0 if kept else 1
