"""The folder of a run of scoring: what was asked, and the score records as they come.

request             everything that the scores depend on, in JSON: evaluation.json, or request.json of `descore score`
videos.jsonl        every (video, prompt) once, with the estimated cost of scoring it
scores.jsonl        one record per line, in scoring order; with shards scores-1-of-8.jsonl and so on. It is the score of
                    a video of videos.jsonl, or from a model that compares, the comparison of a pair of pairs.jsonl
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from descore.atomic import write_whole

if TYPE_CHECKING:
    from descore.scoring.schedule import Batches

Record = dict[str, Any]

_MAY_CHANGE = {"root", "table", "model", "description"}  # digests cover the content at these locations


class ScoringError(ValueError):
    """A run of scoring that cannot start or resume; the message says why, and what to do."""


class VideoList:
    """Videos to score: each (video, prompt) once, in the order in which they were added.

    Attributes:
        records: Records of videos.jsonl, without their cost.
        paths: Path of each video.

    >>> videos = VideoList()
    >>> videos.add("a.mp4", "data/a.mp4", "a cat"), videos.add("b.mp4", "data/b.mp4", "a cat")
    (0, 1)
    >>> videos.add("a.mp4", "data/a.mp4", "a cat")
    0
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.paths: list[str] = []
        self._index: dict[tuple[str, str], int] = {}

    def add(self, name: str, path: str, prompt: str, **more: Any) -> int:
        """Add a video, and return its index.

        Args:
            name: Path of the video as it is recorded, relative to the folder of the data.
            path: Path of the video as it is opened.
            prompt: Prompt of the video.
            **more: Further entries of its record.
        """
        index = self._index.setdefault((name, prompt), len(self.records))
        if index == len(self.records):
            self.records.append({"index": index, "video": name, "prompt": prompt, **more})
            self.paths.append(path)
        return index


def check_same(folder: Path, found: Record, wanted: Record) -> None:
    """Check that a run may resume in a folder: that its request is the one that the folder holds.

    Raises:
        ScoringError: If an entry differs that the scores depend on.
    """
    before, now = _flat(found), _flat(wanted)
    differences = [
        f"{key} is {now.get(key)!r} and was {before.get(key)!r}"
        for key in dict.fromkeys([*before, *now])
        if key not in _MAY_CHANGE and before.get(key) != now.get(key)
    ]
    if differences:
        raise ScoringError(
            f"{folder} holds scores of another request: {'; '.join(differences)}. "
            "Repeat the command with the old values to resume it, or choose another --output"
        )


def _flat(info: Record) -> Record:
    protocol: Record = info["protocol"]
    return {key: value for key, value in info.items() if key != "protocol"} | protocol


def read_scores(folder: Path, listed: str = "videos.jsonl") -> list[Record | None]:
    """Read the record of each item of a run; None for one that is not scored yet.

    Args:
        folder: Folder of the run.
        listed: File that lists the items: videos.jsonl, or pairs.jsonl for a model that compares.
    """
    scores: list[Record | None] = [None] * len(read_lines(folder / listed))
    for path in score_files(folder):
        for score in read_lines(path):
            scores[score["index"]] = score
    return scores


def score_files(folder: Path) -> list[Path]:
    """Return the files of scores in the folder of a run, one per shard."""
    return sorted([*folder.glob("scores.jsonl"), *folder.glob("scores-*-of-*.jsonl")])


def name_scores_file(folder: Path, shard: tuple[int, int]) -> str:
    """Return the name of a shard's file of scores.

    Raises:
        ScoringError: If the folder holds scores of another number of shards.
    """
    end = f"-of-{shard[1]}.jsonl"
    others = [p.name for p in score_files(folder) if not p.name.endswith(end if shard[1] > 1 else "scores.jsonl")]
    if others:
        raise ScoringError(
            f"{folder} holds {', '.join(others)}, which do not belong to shard {shard[0]}/{shard[1]}: use the "
            "number of shards that it was started with, or choose another --output"
        )
    return "scores.jsonl" if shard[1] == 1 else f"scores-{shard[0]}{end}"


@contextmanager
def exclusive_writer(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file; the OS releases it if the process dies.

    Raises:
        ScoringError: If another process holds the lock.
    """
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ScoringError(f"{file} is being written by another process; wait for it to end, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def find_unscored(part: Batches, file: Path) -> Batches:
    """Return the batches that are still to be scored, and truncate the file after its last complete batch.

    Args:
        part: Batches of this shard, in scoring order.
        file: File of the shard's scores; it need not exist.

    Raises:
        ScoringError: If the file holds scores of other videos.
    """
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    lines = [line for line in lines if line.endswith(b"\n")]
    planned = list(chain.from_iterable(part))
    for number, (line, index) in enumerate(zip(lines, [*planned, None], strict=False), start=1):
        if (found := json.loads(line)["index"]) != index:
            raise ScoringError(
                f"{file}, line {number}: expected item {index}, got {found}; remove the file to score its videos again"
            )
    kept, num_batches = 0, 0
    while num_batches < len(part) and kept + len(part[num_batches]) <= len(lines):
        kept += len(part[num_batches])
        num_batches += 1
    if file.is_file():
        os.truncate(file, sum(map(len, lines[:kept])))
    return part[num_batches:]


def read_lines(path: Path) -> list[Record]:
    """Read a JSONL file; a last line without a line end is ignored, since it is still being written."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write a JSONL file atomically."""
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def plain(value: Any) -> Any:
    """Return a value with None (null in JSON) in place of every nan, in dicts, lists and tuples too.

    >>> plain({"accuracy": math.nan, "interval": (0.5, 1.0)})
    {'accuracy': None, 'interval': [0.5, 1.0]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def relative(path: str, root: str | Path) -> str:
    """Return a path relative to a folder if it lies below it, and unchanged otherwise.

    >>> relative("data/videos/a.mp4", Path("data")), relative("elsewhere/a.mp4", Path("data"))
    ('videos/a.mp4', 'elsewhere/a.mp4')
    """
    full, folder = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(full, folder) if Path(full).is_relative_to(folder) else path
