"""`descore reject`: rejection sampling, the thoughts about pairs whose verdict is right, to be trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from descore.commands.scoring_options import add_model_option
from descore.commands.usage import UsageError
from descore.commands.videos import print_reasons

EXAMPLES = """examples:
  descore reject train.jsonl --model runs/unifiedreward_think --output kept.jsonl
  descore reject train.csv --preset videoalign --dimension TA --model runs/judge --num-thoughts 8 --output kept.jsonl

The model, which compares two videos and thinks, writes NUM thoughts about each pair with A first and as many with B
first. The first one of each order whose verdict is the label is kept, in the columns thought_a_first and
thought_b_first; a pair without any is left out. Train on the output from the same model, in descore.modules.choice:
  --model.backbone runs/unifiedreward_think/version_0/export/best/backbone --data.train kept.jsonl

The output appears whole at the end or not at all. The exit code is 1 if a pair failed, or none is kept.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "reject",
        help="keep a model's own thoughts about pairs where they are right: rejection sampling",
        description="Rejection sampling: let a model think about labelled pairs, and keep thoughts whose verdict is "
        "the label.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option("table", help="table of labelled pairs: .csv, .tsv, .jsonl, .json or .parquet")
    add_model_option(command)
    option("--output", required=True, type=Path, metavar="FILE.jsonl", help="table of pairs to write")
    option("--preset", default="descore", help="layout of the table; docs/data.md lists all (default descore)")
    option("--dimension", default="overall", metavar="NAME", help="dimension whose labels are read (default overall)")
    option("--num-thoughts", type=int, default=4, metavar="NUM", help="thoughts for each pair and order (default 4)")
    option("--temperature", type=float, help="sampling temperature (default: 1, and 0 for one thought)")
    option(
        "--max-batch-tokens", type=int, metavar="N", help="tokens in a batch (default: as many as the memory is for)"
    )
    option("--device", help="device to run on, such as cpu or cuda:0 (default: the GPU if there is one)")
    command.set_defaults(run=_reject)


def _reject(options: argparse.Namespace) -> int:
    from descore.scoring.folder import ScoringError
    from descore.scoring.progress import progress
    from descore.scoring.scorer import Scorer
    from descore.selection.rejection import sample_right
    from descore.tables.pairs import read_pairs
    from descore.tables.writer import check_output, write_pairs

    names = [options.dimension]
    if options.output.exists() or options.output.suffix != ".jsonl":
        raise UsageError(f"expected an output that does not exist and ends in .jsonl, got {options.output}")
    try:
        check_output(options.output, [options.table])
        pairs = read_pairs(options.table, preset=options.preset, dimensions=names).pairs
        placed: dict[str, Any] = {"device": options.device, "backbone": options.backbone}
        scorer = Scorer(options.model, max_batch_tokens=options.max_batch_tokens, **placed)
        how: dict[str, Any] = {"num_thoughts": options.num_thoughts, "temperature": options.temperature}
        sampled = []
        with progress("Thinking", len(pairs), len(pairs)) as advance:
            for one in sample_right(scorer, pairs, **how):
                sampled.append(one)
                advance(1)
        kept = [one.pair for one in sampled if any(one.pair.thoughts)]
        if kept:
            write_pairs(options.output, kept, dimensions=names)
    except (ScoringError, ImportError, ValueError, OSError) as error:
        raise UsageError(error) from error
    failed = [f"pair {one.pair.id}: {one.error}" for one in sampled if one.error]
    orders = sum(bool(text) for pair in kept for text in pair.thoughts)
    told = f"kept {orders} of {2 * len(pairs)} orders, of {len(kept)} of {len(pairs)} pairs; {len(failed)} failed"
    print(f"{told}: {options.output if kept else 'nothing is written'}")
    print_reasons(failed)
    return 1 if failed or not kept else 0
