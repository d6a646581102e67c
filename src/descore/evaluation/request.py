"""The request of an evaluation: pairs and videos of a table, and checks before the first video."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from descore.answer import NOT_ASKED
from descore.evaluation.benchmark import Benchmark
from descore.evaluation.folder import Evaluation, load_evaluation
from descore.evaluation.swapping import swap_prompts
from descore.scoring.folder import Record, ScoringError, VideoList, plain, relative
from descore.tables.pairs import OnBadRow, PairTable
from descore.types import Side

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Items:
    """The videos and pairs of a table.

    Attributes:
        pairs: Records of pairs.jsonl.
        videos: Each (video, prompt) once.
        missing: Names of the videos whose file does not exist.
        rejected: Number of rows left out, by reason.
    """

    pairs: list[Record]
    videos: VideoList
    missing: list[str]
    rejected: dict[str, int]


def read_items(benchmark: Benchmark, limit: int | None, on_bad_row: OnBadRow) -> Items:
    """Read a benchmark's table, and list each (video, prompt) once, in the order of the table.

    Args:
        benchmark: Benchmark to read.
        limit: Number of pairs, or of single videos, to take from the start of the table; all if not given.
        on_bad_row: "error" stops at a row that cannot be used; "skip" leaves such rows out and counts them.

    Raises:
        ScoringError: If the table cannot be read.
        FileNotFoundError: If the table does not exist.
    """
    try:
        table = benchmark.read(on_bad_row)
    except ValueError as error:
        raise ScoringError(str(error)) from error
    pairs: list[Record] = []
    videos = VideoList()

    def add(side: Side, prompt: str) -> int:
        mos = dict(zip(benchmark.dimensions, side.mos or (None,) * len(benchmark.dimensions), strict=True))
        name = relative(side.video, benchmark.root)
        return videos.add(name, side.video, prompt, generator=side.generator, mos=plain(mos))

    if isinstance(table, PairTable):
        for pair in table.pairs[:limit]:
            labels = (None if math.isnan(label) else int(label) for label in pair.preference)
            pairs.append({
                "id": pair.id,
                "prompt": pair.prompt,
                "a": add(pair.a, pair.prompt),
                "b": add(pair.b, pair.prompt),
                "preference": dict(zip(benchmark.dimensions, labels, strict=True)),
                "scores_a": _annotated(pair.a),
                "scores_b": _annotated(pair.b),
            })
    else:
        for rated in table.videos[:limit]:
            add(rated.side, rated.prompt)
    found = zip(videos.records, videos.paths, strict=True)
    missing = dict.fromkeys(video["video"] for video, path in found if not os.path.isfile(path))
    return Items(pairs, videos, list(missing), table.num_rejected())


def _annotated(side: Side) -> Record | None:
    return side.scores and {name: NOT_ASKED if score is None else score for name, score in side.scores.items()}


def describe_request(benchmark: Benchmark, items: Items, limit: int | None) -> Record:
    """Return the entries of evaluation.json that describe the benchmark, with a digest of its pairs and videos."""
    content = json.dumps([items.pairs, items.videos.records], sort_keys=True)
    return {
        "format": FORMAT,
        "benchmark": benchmark.name,
        "description": benchmark.description,
        "table": str(benchmark.table),
        "table_digest": hashlib.blake2b(content.encode(), digest_size=16).hexdigest(),
        "root": os.path.abspath(benchmark.root),
        "preset": benchmark.preset,
        "dimensions": list(benchmark.dimensions),
        "limit": limit,
        "num_videos": len(items.videos.paths),
        "num_pairs": len(items.pairs),
        "rejected": items.rejected,
        "missing": items.missing,
    }


def check_pairs(items: Items, benchmark: Benchmark, *, with_swapped_prompts: bool) -> None:
    """Check that a model that compares two videos can be evaluated on a table.

    Raises:
        ScoringError: If the table has no pairs, or prompts are to be swapped.
    """
    if not items.pairs:
        raise ScoringError(
            f"{benchmark.table}: this model compares two videos, and the table has single videos; evaluate it on a "
            "table of pairs"
        )
    if with_swapped_prompts:
        raise ScoringError(
            "this model compares two videos of one prompt, and gives no reward that a swapped prompt could change; "
            "leave out --swap-prompts"
        )


def swap_in(items: Items, benchmark: Benchmark) -> int:
    """Add the videos with swapped prompts to those of the table, and return their number; see `swap_prompts`.

    Raises:
        ScoringError: If no video has another prompt to take.
    """
    num_swapped = swap_prompts(items.videos)
    if not num_swapped:
        found = items.videos.records[0]["prompt"]
        raise ScoringError(
            f"{benchmark.table}: expected at least two different prompts to swap, got {found!r} for every video; leave "
            "out --swap-prompts"
        )
    return num_swapped


def missing_message(items: Items, root: Path) -> str:
    """Return the error message for missing video files: the first ten, where they were expected, and what to do."""
    shown, files = items.missing[:10], len(set(items.videos.paths))
    listed = "\n".join(f"  {video}" for video in shown)
    return (
        f"{len(items.missing)} of {files} video files are missing; paths are relative to {os.path.abspath(root)}. Put "
        f"them there, or evaluate without them with --skip-missing. The first {len(shown)}:\n{listed}"
    )


def load_tuned(folder: str | Path, info: Record) -> Evaluation:
    """Load the finished evaluation whose tie thresholds are applied to another one.

    Args:
        folder: Folder of the finished evaluation.
        info: Content of evaluation.json of the other one.

    Raises:
        ScoringError: If the evaluation is not finished, is of another model or protocol, or of the same table.
        FileNotFoundError: If the folder is not one that `descore evaluate` wrote.
    """
    tuned = load_evaluation(folder)
    if not tuned.summary:
        raise ScoringError(
            f"{folder} is not finished: repeat its `descore evaluate` command to finish it, then take its thresholds"
        )
    if (tuned.info["model_digest"], tuned.info["protocol"]) != (info["model_digest"], info["protocol"]):
        raise ScoringError(
            f"{folder} is of another model or protocol, whose rewards have another scale; evaluate the other split "
            "with this model and these options first"
        )
    if tuned.info["table_digest"] == info["table_digest"]:
        raise ScoringError(
            f"{folder} was evaluated on these very pairs, which its thresholds were tuned on; evaluate another split "
            "and take its thresholds"
        )
    return tuned
