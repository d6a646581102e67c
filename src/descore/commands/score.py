"""`descore score`: score video files, or all videos of a table."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from descore.scoring.score import Score
    from descore.scoring.scorer import Scorer

EXAMPLES = """examples:
  descore score --model runs/stage1/version_0/export/last --prompt "A red circle moves left fast." a.mp4 b.mp4
  descore score --model runs/stage1/version_0/export/last --output scored.csv pairs.csv

A table is a CSV or JSONL file with a column prompt, and the paths of the videos, relative to the table, in a column
video or path, or in two columns video_a and video_b or path_A and path_B. The scored table has the same rows, with the
reward and the thought of each video, or the reason why it failed. The exit code is 1 if a video failed.
"""


VIDEO_COLUMNS = (("video",), ("path",), ("video_a", "video_b"), ("path_A", "path_B"))


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
    option("inputs", nargs="+", metavar="video.mp4 | table.csv", help="video files of one prompt, or one table")
    option("--model", required=True, help="exported folder of a training run, such as .../export/best, or a hub id")
    option("--prompt", help="text that the videos were generated from; needed for video files, unused for a table")
    option("--json", action="store_true", help="for video files: print one score record in JSON per video")
    option("--output", metavar="FILE", help="for a table: scored table to write (default TABLE.scored.csv or .jsonl)")
    option(
        "--num-thoughts",
        type=int,
        default=1,
        metavar="K",
        help="thoughts sampled per video; the reward is the mean over them (default 1). More thoughts give a steadier "
        "reward and its standard deviation, at K times the cost",
    )
    option("--no-thoughts", action="store_true", help="score without thinking: faster, but without an explanation")
    option(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="videos scored together (default 8); lower it if memory runs out",
    )
    option("--device", help="device to run on, such as cpu or cuda:0 (default: the GPU if there is one)")
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    from descore.scoring.scorer import Scorer

    inputs: list[str] = options.inputs
    is_table = len(inputs) == 1 and Path(inputs[0]).suffix in {".csv", ".jsonl"}
    if not is_table and options.prompt is None:
        raise SystemExit("descore score: --prompt is needed for video files: the text that they were generated from")
    scorer = Scorer(
        options.model, device=options.device, thoughts=not options.no_thoughts, batch_size=options.batch_size
    )
    if is_table:
        return _score_table(scorer, Path(inputs[0]), options)
    scores = _stream(scorer, inputs, [options.prompt] * len(inputs), options)
    return _print_all(inputs, scores, as_json=options.json)


def _stream(scorer: Scorer, videos: list[str], prompts: list[str], options: argparse.Namespace) -> Iterator[Score]:
    scores = scorer.stream(videos, prompts, num_thoughts=options.num_thoughts)
    quiet = len(videos) <= options.batch_size
    progress = track(scores, "Scoring", total=len(videos), console=Console(stderr=True), disable=quiet)
    return iter(progress)


def _print_all(videos: list[str], scores: Iterator[Score], *, as_json: bool) -> int:
    failed = 0
    for video, score in zip(videos, scores, strict=True):
        failed += score.error is not None
        if as_json:
            print(json.dumps({"video": video} | score.to_json()), flush=True)
        elif score.error is not None:
            print(f"{video}\n  failed: {score.error}\n", flush=True)
        else:
            spread = "" if score.reward_std is None else f" (standard deviation {score.reward_std:.4f})"
            print(f"{video}\n  reward {score.reward:.4f}{spread}\n  {score.thought or 'no thought'}\n", flush=True)
    return 1 if failed else 0


def _score_table(scorer: Scorer, table: Path, options: argparse.Namespace) -> int:
    rows = _read_table(table)
    columns = next(([c for c in names if c in rows[0]] for names in VIDEO_COLUMNS if names[0] in rows[0]), [])
    if not columns or "prompt" not in rows[0]:
        expected = " or ".join("/".join(names) for names in VIDEO_COLUMNS)
        found = ", ".join(rows[0])
        raise SystemExit(f"descore score: {table}: expected a column prompt and one of {expected}; found {found}")
    videos = [str(table.parent / row[column]) for row in rows for column in columns]
    scores = _stream(scorer, videos, [row["prompt"] for row in rows for _ in columns], options)
    failed = 0
    for row in rows:
        for column, score in zip(columns, scores, strict=False):
            failed += score.error is not None
            suffix = column.removeprefix("video").removeprefix("path")
            row[f"reward{suffix}"] = score.to_json()["reward"]
            row[f"thought{suffix}"] = score.thought
            row[f"error{suffix}"] = score.error
    output = Path(options.output or table.with_suffix(f".scored{table.suffix}"))
    _write_table(output, rows)
    print(f"{len(videos)} videos scored, {failed} failed: {output}")
    return 1 if failed else 0


def _read_table(table: Path) -> list[dict[str, Any]]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = [json.loads(line) for line in file] if table.suffix == ".jsonl" else list(csv.DictReader(file))
    if not rows:
        raise SystemExit(f"descore score: {table}: expected at least one row, found none")
    return rows


def _write_table(table: Path, rows: list[dict[str, Any]]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        if table.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
