"""Writes pair tables in our own layout."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from descore.answer import NOT_ASKED
from descore.atomic import write_whole
from descore.types import Pair

_LABELS = {1.0: "A", -1.0: "B", 0.0: "tie"}


def write_pairs(path: str | Path, pairs: Iterable[Pair], *, dimensions: Sequence[str] = ("overall",)) -> None:
    """Write pairs as JSONL in our own layout; `read_pairs` with the same `dimensions` returns equal pairs.

    Video paths are written relative to the table's folder. The file appears complete or not at all.

    Args:
        path: Path of the table, which must end in `.jsonl`, in an existing folder.
        pairs: Pairs to write; each has one preference for each dimension, at least one of which is not nan.
        dimensions: Names of the reward dimensions. Several dimensions are written to columns preference_<name>.

    Raises:
        ValueError: If the path does not end in `.jsonl`, or a pair's preferences are not as above.

    >>> import tempfile
    >>> from descore.types import Side
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, b = Side(f"{folder}/a.mp4"), Side(f"{folder}/b.mp4")
    ...     write_pairs(f"{folder}/pairs.jsonl", [Pair("p1", "a cat", a, b, preference=(1.0,))])
    ...     Path(folder, "pairs.jsonl").read_text().strip()
    '{"id": "p1", "prompt": "a cat", "video_a": "a.mp4", "video_b": "b.mp4", "preference": "A"}'
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"expected a file name that ends in .jsonl, got {path.name!r}")
    records = (_record(pair, path.parent, dimensions) for pair in pairs)
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records))


def _record(pair: Pair, folder: Path, dimensions: Sequence[str]) -> dict[str, Any]:
    usable = {value for value in pair.preference if not math.isnan(value)}
    if len(pair.preference) != len(dimensions) or not usable or not usable <= set(_LABELS):
        expected = f"+1, -1, 0 or nan for each of {', '.join(dimensions)}, not nan for all"
        raise ValueError(f"pair {pair.id!r}: expected a preference of {expected}, got {pair.preference}")
    suffixes = [""] if len(dimensions) == 1 else [f"_{name}" for name in dimensions]
    record: dict[str, Any] = {"id": pair.id, "prompt": pair.prompt}
    for key, side in (("a", pair.a), ("b", pair.b)):
        record[f"video_{key}"] = _relative(side.video, folder)
        if side.thought:
            record[f"cot_{key}"] = side.thought
        if side.scores is not None:
            record[f"scores_{key}"] = {n: NOT_ASKED if score is None else score for n, score in side.scores.items()}
        if side.generator:
            record[f"generator_{key}"] = side.generator
        for suffix, value in zip(suffixes, side.mos, strict=bool(side.mos)):
            record[f"mos_{key}{suffix}"] = None if math.isnan(value) else value
    labels = (_LABELS.get(value, "invalid") for value in pair.preference)
    return record | {f"preference{suffix}": label for suffix, label in zip(suffixes, labels, strict=True)}


def _relative(video: str, folder: Path) -> str:
    try:
        return Path(video).absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:  # the video is outside the folder; ".." is only safe between paths without symbolic links
        return Path(os.path.relpath(Path(video).resolve(), folder.resolve())).as_posix()
