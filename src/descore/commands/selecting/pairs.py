"""`descore pairs`: pairs for DPO from many videos per prompt."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from descore.commands.scoring_options import add_model_option, add_scoring_options, protocol_of
from descore.commands.usage import UsageError
from descore.commands.videos import print_reasons

if TYPE_CHECKING:
    from descore.tables.unscored import UnscoredTable

EXAMPLES = """examples:
  descore pairs videos.scored.csv --output pairs.csv
  descore pairs videos.parquet --model runs/stage1 --min-margin 0.5 --max-per-prompt 2 --output pairs.parquet

The table has many videos per prompt: a column prompt, the paths of the videos in video or path (or video_a and
video_b), and their rewards in reward, as `descore score` writes them. With --model the videos are scored first, to
OUTPUT with .scored before its ending; a killed run resumes when its command is repeated.

The best video of a prompt is paired with the worst, the second best with the second worst, and so on: no video is in
two pairs. Equal rewards are no pair. The columns of the pairs are prompt, video_chosen, video_rejected, reward_chosen,
reward_rejected, margin, and every other column of the table for either video, such as seed_chosen and seed_rejected.
Videos without a reward are left out and listed; the exit code is then 1.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "pairs",
        help="make pairs for DPO from many videos per prompt",
        description="Make pairs for DPO from many videos per prompt: chosen and rejected by their rewards.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option("table", help="table of videos: .csv, .tsv, .jsonl, .json or .parquet")
    option(
        "--output", required=True, type=Path, metavar="FILE", help="table of pairs to write, in any of these formats"
    )
    option(
        "--min-margin",
        type=_margin,
        default=0.0,
        metavar="X",
        help="smallest difference of the rewards of a pair (default 0: any difference)",
    )
    option(
        "--max-per-prompt", type=_count, default=1, metavar="M", help="largest number of pairs of a prompt (default 1)"
    )
    option("--reward", default="reward", metavar="COLUMN", help="column of the rewards (default: reward)")
    add_model_option(command, required=False)
    add_scoring_options(command.add_argument_group("scoring, with --model"))
    command.set_defaults(run=_pairs)


def _pairs(options: argparse.Namespace) -> int:
    from descore.scoring.folder import ScoringError
    from descore.selection.pairing import choose_pairs, pair_rows, read_candidates
    from descore.tables.unscored import read_unscored
    from descore.tables.writer import write_rows

    try:
        table = read_unscored(options.table)
        _check_output(options, table)
        if (scored := _scored_rows(options, table)) is None:
            return 0
        candidates = read_candidates(options.table, table, scored, options.reward)
        found = choose_pairs(candidates, min_margin=options.min_margin, max_per_prompt=options.max_per_prompt)
        if found.pairs:
            write_rows(options.output, pair_rows(found.pairs, options.output.parent), inputs=[options.table])
    except (ScoringError, ImportError, ValueError, OSError) as error:
        raise UsageError(f"{error}{options.after_interrupt if isinstance(error, OSError) else ''}") from error
    close = f"{found.num_close} left out as ties" + (f" or below {options.min_margin:g}" if options.min_margin else "")
    told = f"{len(found.pairs)} pairs of {found.num_prompts} prompts, {close}, {len(found.failed)} videos failed"
    print(f"{told}: {options.output if found.pairs else 'nothing is written'}")
    print_reasons(found.failed)
    return 1 if found.failed or not found.pairs else 0


def _check_output(options: argparse.Namespace, table: UnscoredTable) -> None:
    """Check that the output can be written, and replaces nothing but a table of pairs."""
    from descore.tables.formats import read_rows
    from descore.tables.writer import check_output

    check_output(options.output, [options.table, *table.videos()])
    if options.output.exists() and not any("video_chosen" in row.cells for row in read_rows(str(options.output))):
        raise UsageError(f"{options.output} exists, and is not a table of pairs; choose another output, or remove it")


def _scored_rows(options: argparse.Namespace, table: UnscoredTable) -> Iterable[Mapping[str, Any]] | None:
    """Return the rows of the table with their rewards; score them first with a model. None if shards are left."""
    from descore.scoring.table import score_table
    from descore.tables.formats import read_rows

    if options.model is None:
        return [row.cells for row in table.rows]
    options.after_interrupt = "; repeat the command to resume it"
    scored = score_table(
        options.model,
        table,
        options.output.with_name(f"{options.output.stem}.scored{options.output.suffix}"),
        inputs=[options.table],
        root=Path(options.table).parent,
        protocol=protocol_of(options),
        shard=options.shard,
        device=options.device,
        backbone=options.backbone,
    )
    if scored.left:
        print(f"{scored.left} videos are left to the other shards; the one that ends last writes {options.output}")
        return None
    return [row.cells for row in read_rows(str(scored.output))]


def _margin(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(margin := float(text)) and margin >= 0:
            return margin
    raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)
