"""`descore score`: score video files, or all videos of a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from descore.commands.scoring_options import add_model_option, add_scoring_options, protocol_of, scorer_of
from descore.commands.usage import UsageError
from descore.commands.videos import check_prompt_given, find_videos, print_failures, print_reasons, print_record

if TYPE_CHECKING:
    from descore.scoring.protocol import ScoringProtocol
    from descore.scoring.score import Score
    from descore.tables.unscored import UnscoredTable

EXAMPLES = """examples:
  descore score --model demo
  descore score --model runs/stage1 --prompt "A red circle moves left fast." a.mp4 b.mp4
  descore score --model runs/stage1 --prompt "..." a.mp4 b.mp4 --output scores.jsonl
  descore score --model runs/stage1 --prompt "..." clips 'more/take-*.mp4'
  descore score --model runs/stage1 --output scored.csv pairs.csv

A folder stands for the video files in it and in its subfolders, and a pattern in quotes for those that match.

A table is a .csv, .tsv, .jsonl, .json or .parquet file with a column prompt, and the paths of the videos, relative to
the table, in a column video or path, or in two columns video_a and video_b or path_A and path_B. The scored table has
the same rows, and the fields of each video's score record as further columns, such as reward_a, thought_a and error_a.

To resume a killed run, repeat its command: the scores so far are in OUTPUT.scores, until the table is written whole.
The exit code is 1 if a video failed, 2 if nothing could start, and 130 after an interrupt.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    score = commands.add_parser(
        "score",
        help="score videos against their prompts",
        description="Score videos against their prompts: give each its reward, and the thought that explains it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = score.add_argument
    option(
        "inputs",
        nargs="*",
        metavar="video.mp4 | folder | 'pattern' | table.csv",
        help="video files of one prompt, folders of them and patterns that they match, or one table; with --model demo "
        "the six that ship with it if none is given",
    )
    add_model_option(score)
    option("--prompt", help="text that the video files were generated from; a table has its own prompts")
    option("--json", action="store_true", help="for video files: print one score record in JSON per video")
    option(
        "--output",
        type=Path,
        metavar="FILE",
        help="scored table to write, in the format of its name: .csv, .tsv, .jsonl, .json or .parquet (default for a "
        "table: TABLE.scored.csv beside it; for video files: scores are printed)",
    )
    add_scoring_options(score.add_argument_group("scoring"))
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    from descore.scoring.folder import ScoringError

    try:
        protocol = protocol_of(options)
        table = _read_table(options)
        if options.output is None:
            return _print_scores(options, protocol)
        options.after_interrupt = "; repeat the command to resume it"
        return _write_table(options, table, protocol)
    except (ScoringError, ImportError) as error:
        raise UsageError(error) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{error}{options.after_interrupt}") from error


def _read_table(options: argparse.Namespace) -> UnscoredTable:
    """Return the table to score, or the given videos as one; name the output of a table if it is not given."""
    from descore.tables.formats import READERS
    from descore.tables.unscored import list_videos, read_unscored

    if not options.inputs:
        return _read_demo(options)
    tables = [name for name in options.inputs if Path(name).suffix.lower() in READERS]
    if not tables:
        _check_videos_options(options)
        options.inputs = find_videos(options.inputs)
        return list_videos(options.prompt, options.inputs, options.output)
    if len(options.inputs) > 1:
        raise UsageError(f"expected video files, or one table; got {len(options.inputs)} files, among them {tables[0]}")
    if options.prompt is not None:
        raise UsageError(f"--prompt goes with video files; the prompts of {tables[0]} are in its column prompt")
    if options.json:
        raise UsageError("--json goes with video files; for a table give --output scored.jsonl")
    table = Path(tables[0])
    options.output = options.output or table.with_name(f"{table.stem}.scored{table.suffix}")
    try:
        return read_unscored(table)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(error) from error


def _read_demo(options: argparse.Namespace) -> UnscoredTable:
    """Return the table of the videos that ship with the model `demo`, and take them as the videos to score."""
    from descore.demo.shipped import DEMO, FOLDER, TABLE, demo_videos
    from descore.tables.unscored import read_unscored

    if options.model != DEMO or options.prompt is not None:
        raise UsageError(
            "expected video files, folders, patterns or a table; only the model demo has videos of its own"
        )
    table = FOLDER / TABLE
    options.inputs, options.prompt = ([str(table)], "") if options.output else demo_videos()
    _check_videos_options(options)
    return read_unscored(table)


def _check_videos_options(options: argparse.Namespace) -> None:
    check_prompt_given(options)
    if options.json and options.output:
        raise UsageError("--json prints the records, and --output writes them: give one of the two")
    if options.shard != (1, 1) and not options.output:
        raise UsageError("--shard needs --output: the shards meet in its folder of scores")


def _print_scores(options: argparse.Namespace, protocol: ScoringProtocol) -> int:
    from descore.scoring.progress import progress

    videos, done = options.inputs, []
    prompts: list[dict[str, str]] = [{}] * len(videos)
    if isinstance(options.prompt, list):
        prompts = [{"prompt": prompt} for prompt in options.prompt]
    scores = scorer_of(options, protocol).stream(
        videos, options.prompt, num_thoughts=protocol.num_thoughts, temperature=protocol.temperature
    )
    with progress("Scoring", len(videos), len(videos)) as advance:
        for video, more, score in zip(videos, prompts, scores, strict=True):
            done.append((video, score))
            if options.json:
                print_record(video, score, **more)
            else:
                _print_score("\n  prompt: ".join([video, *more.values()]), score)
            advance(1)
    return print_failures(done)


def _print_score(video: str, score: Score) -> None:
    if score.error is not None:
        print(f"{video}\n  failed: {score.error}\n", flush=True)
    else:
        spread = "" if score.reward_std is None else f" (standard deviation {score.reward_std:.4f})"
        print(f"{video}\n  reward {score.reward:.4f}{spread}\n  {score.thought or 'no thought'}\n", flush=True)


def _write_table(options: argparse.Namespace, table: UnscoredTable, protocol: ScoringProtocol) -> int:
    from descore.scoring.table import score_table

    scored = score_table(
        options.model,
        table,
        options.output,
        inputs=options.inputs,
        root=Path(options.inputs[0]).parent,
        protocol=protocol,
        shard=options.shard,
        device=options.device,
        backbone=options.backbone,
    )
    if scored.left:
        print(f"{scored.left} videos are left to the other shards; the one that ends last writes {scored.output}")
        return 0
    print(f"{scored.num_videos} videos scored, {len(scored.failed)} failed: {scored.output}")
    print_reasons(scored.failed, "see the column error of the table")
    return 1 if scored.failed else 0
