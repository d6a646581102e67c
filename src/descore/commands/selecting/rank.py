"""`descore rank`: best-of-N, the videos of one prompt from the best to the worst."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from descore.commands.scoring_options import add_model_option, add_protocol_options, protocol_of, scorer_of
from descore.commands.usage import UsageError
from descore.commands.videos import check_prompt_given, find_videos, print_failures, print_record
from descore.evaluation.percentages import percent
from descore.tables.formats import READERS

if TYPE_CHECKING:
    from descore.scoring.score import Score
    from descore.selection.ranking import Ranked

Record = TypeVar("Record")

EXAMPLES = """examples:
  descore rank --model runs/stage1 --prompt "A red circle moves left fast." a.mp4 b.mp4 c.mp4
  descore rank --model runs/stage1 --prompt "..." --num-thoughts 8 takes
  descore rank --model runs/stage1 --prompt "..." --best 'takes/*.mp4'
  descore rank --model runs/pairwise --prompt "..." --reference original.mp4 takes

A margin is the reward of a video less that of the next one. With several thoughts the rewards of a video spread, and
the probability that it is better than the next one follows from the spread, by Student's t: it tells how sure the model
is of its own order, not how often people agree with it.

A model that compares two videos compares each two of them in both orders. The number of a video is then its strength
by Bradley and Terry, fitted to all comparisons, or its mean win rate (--rate-by win_rate), or with --reference the
probability that it is better than the reference; a tie counts as half a win. "Better than the next" is what the model
says of these two videos.

The exit code is 1 if a video failed; failed videos come last.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "rank",
        help="rank videos of one prompt: best-of-N",
        description="Rank videos of one prompt by their rewards, the best first, with margins and how sure they are.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option(
        "inputs",
        nargs="+",
        metavar="video.mp4 | folder | 'pattern'",
        help="video files, folders of them and patterns that they match; each file is ranked once",
    )
    add_model_option(command)
    option("--prompt", help="text that the videos were generated from")
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one score record in JSON per video, the best first")
    shown.add_argument("--best", action="store_true", help="print the path of the best video, and nothing else")
    compared = command.add_argument_group("models that compare two videos")
    compared.add_argument(
        "--rate-by",
        choices=("bradley_terry", "win_rate"),
        help="what makes a number of the comparisons of a video with the others (default bradley_terry)",
    )
    compared.add_argument("--reference", metavar="VIDEO", help="video that each one is compared with, and nothing else")
    add_protocol_options(command.add_argument_group("scoring"))
    command.set_defaults(run=_rank)


def _rank(options: argparse.Namespace) -> int:
    from descore.scoring.folder import ScoringError
    from descore.selection.ranking import rank

    check_prompt_given(options)
    if tables := [name for name in options.inputs if Path(name).suffix.lower() in READERS]:
        raise UsageError(f"expected videos of one prompt, got the table {tables[0]}: descore score scores tables")
    videos = list(dict.fromkeys(find_videos(options.inputs)))
    if options.rate_by and options.reference:
        raise UsageError("--rate-by rates the comparisons within a group, and --reference makes others: give one")
    try:
        scores, wins = _rate(options, videos)
    except ScoringError as error:
        raise UsageError(error) from error
    ranked = rank(scores, wins)
    if options.json:
        _print_records(videos, ranked)
    elif not options.best:
        _print_table(videos, ranked)
    elif ranked[0].score.error is None:
        print(videos[ranked[0].index])
    return print_failures(list(zip(videos, scores, strict=True)))


def _rate(options: argparse.Namespace, videos: Sequence[str]) -> tuple[list[Score], Any]:
    """Return the score of each video, and from a model that compares each two, how probably one is better."""
    protocol = protocol_of(options)
    scorer = scorer_of(options, protocol)
    how: dict[str, Any] = {"num_thoughts": protocol.num_thoughts, "temperature": protocol.temperature}
    if not scorer.model.settings.is_pairwise:
        if options.rate_by or options.reference:
            raise UsageError(
                "--rate-by and --reference are for models that compare two videos; this one gives each its reward: "
                "leave them out"
            )
        return _all("Scoring", len(videos), scorer.stream(videos, options.prompt, **how)), None
    from descore.selection.tournament import compare_group, enter, pairs_of_group, rate_against, rate_group

    if options.reference:
        found = scorer.stream_comparisons(videos, options.reference, options.prompt, **how)
        return rate_against(_all("Comparing", len(videos), found)), None
    if len(videos) < 2:
        raise UsageError("this model compares two videos: give several, or one and --reference VIDEO")
    found = compare_group(scorer, videos, options.prompt, **how)
    tournament = enter(len(videos), _all("Comparing", len(pairs_of_group(len(videos))), found))
    return rate_group(tournament, options.rate_by or "bradley_terry"), tournament.wins


def _all(what: str, number: int, records: Iterable[Record]) -> list[Record]:
    """Return all records, and show how many there are so far."""
    from descore.scoring.progress import progress

    found = []
    with progress(what, number, number) as advance:
        for record in records:
            found.append(record)
            advance(1)
    return found


def _print_records(videos: Sequence[str], ranked: Sequence[Ranked]) -> None:
    for place, one in enumerate(ranked, start=1):
        more = {"margin": one.margin, "probability": one.probability}
        print_record(videos[one.index], one.score, rank=None if one.score.error else place, **more)


def _print_table(videos: Sequence[str], ranked: Sequence[Ranked]) -> None:
    """Print one line per video, with its path at the end, where it may be as long as it is."""
    sure = any(one.probability is not None for one in ranked)
    rows = [["rank", "reward", "margin to the next", *(["better than the next"] if sure else []), "video"]]
    for place, one in enumerate(ranked, start=1):
        spread = "" if one.score.reward_std is None else f" ± {one.score.reward_std:.4f}"
        cells = [f"{place}", f"{one.score.reward:.4f}{spread}", "-" if one.margin is None else f"{one.margin:.4f}"]
        cells = ["-", "failed", "-"] if one.score.error is not None else cells
        rows.append([*cells, *([percent(one.probability)] if sure else []), videos[one.index]])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for *cells, video in rows:
        print(*(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)), video, sep="  ")
