"""Read pair tables of every layout, write our own; with csv and json, which guess no types and keep the lines."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal

import fsspec

from descore.answer import NOT_ASKED
from descore.locations import is_url
from descore.presets import NO_LABEL, PRESETS, VIDEO_PRESETS, BadCell, Preset, Row
from descore.types import Pair, RatedVideo

_NOT_FOUND = "video not found"
_LABELS = {1.0: "A", -1.0: "B", 0.0: "tie"}
_Cells = Mapping[str, Any] | BadCell
OnBadRow = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that gave no pair.

    Attributes:
        file: The table.
        row: 1 for the first data row; a header and blank lines do not count.
        line: The line of the file where the row begins; None in JSON and Parquet.
        column: The column at fault.
        value: What it holds, or the first 500 characters of it.
        reason: What was expected, or "no usable label", or "video not found".
    """

    file: str
    row: int
    line: int | None
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        row = f"{self.row}" if self.line is None else f"{self.row} (line {self.line} of the file)"
        return f"{self.file}, data row {row}, column {self.column!r}: {self.reason}, got {self.value!r}"


@dataclass(frozen=True, slots=True)
class PairTable:
    """The pairs of a table, in its order, and the rows that gave none."""

    pairs: tuple[Pair, ...]
    rejected: tuple[Rejected, ...]

    def num_rejected(self) -> dict[str, int]:
        """Count the rejected rows by reason."""
        return dict(Counter(rejected.reason for rejected in self.rejected))


@dataclass(frozen=True, slots=True)
class VideoTable:
    """The videos of a table, in its order, and the rows that gave none."""

    videos: tuple[RatedVideo, ...]
    rejected: tuple[Rejected, ...]

    def num_rejected(self) -> dict[str, int]:
        """Count the rejected rows by reason."""
        return dict(Counter(rejected.reason for rejected in self.rejected))


def read_pairs(
    table: str | Path,
    *,
    preset: str = "descore",
    dimensions: Sequence[str] = ("overall",),
    on_bad_row: OnBadRow = "error",
    check_videos: bool = True,
    row_names: str = "",
    ties: Sequence[str] | None = None,
) -> PairTable:
    """Read a table of pairs; the rows that gave none are in `rejected`.

    Our own layout has the columns prompt, video_a, video_b and preference (A, B, tie, or invalid where nobody could
    tell), and may have id and, of each video, cot_a, scores_a, mos_a and generator_a. Several dimensions have their
    labels in preference_<name>, their opinion scores in mos_a_<name> and mos_b_<name>. Labels are read in any case.

    A row whose labels the layout declares unusable in every dimension (`invalid`, `Hard to judge`, `discard`) is
    counted as rejected with the reason "no usable label"; it is never an error.

    Args:
        table: A .csv, .jsonl, .json (a list of objects) or .parquet file, or the URL of one. Video paths are relative
            to its folder; they too may be URLs.
        preset: The layout: descore, descore_stage1, descore_stage2, genai_bench, mj_bench_video, videoalign (also
            VideoGen-RewardBench) or vision_reward_db.
        dimensions: The reward dimensions to read; each pair gets one preference per name.
        on_bad_row: "error" stops at the first bad row; "skip" collects bad rows in `rejected`.
        check_videos: Whether a video that is not there makes its row a bad one. They are reported all at once. Of
            remote ones nobody knows before they are read.
        row_names: What comes before the number of a row in the id of one that has none.
        ties: The labels that count as a tie, such as tievote; other ties of the layout are then unusable. All, if not
            given.

    Raises:
        FileNotFoundError: If videos are not there and `on_bad_row` is "error", or the table is not there.
        ImportError: If the table is Parquet and pyarrow is not installed.
        ValueError: If the preset, a dimension or a column is not known, the file is not what its name says, or a row is
            bad and `on_bad_row` is "error"; the message names file, row, line, column and value.
    """
    layout = _choose(PRESETS, preset, dimensions, on_bad_row)
    found, rejected = _read_table(str(table), layout, dimensions, on_bad_row, check_videos, row_names, ties)
    return PairTable(tuple(found), tuple(rejected))


def read_videos(
    table: str | Path,
    *,
    preset: str = "descore_videos",
    dimensions: Sequence[str] = ("overall",),
    on_bad_row: OnBadRow = "error",
    check_videos: bool = True,
) -> VideoTable:
    """Read a table of single videos with opinion scores; the rows that gave none are in `rejected`.

    Our own layout has the columns prompt, video and mos, and may have id and generator. Several dimensions have their
    scores in mos_<name>. A row without any score is counted as rejected with the reason "no usable label".

    Args:
        table: As for `read_pairs`.
        preset: The layout: descore_videos, or videofeedback.
        dimensions: The reward dimensions to read; each video gets one score per name.
        on_bad_row: As for `read_pairs`.
        check_videos: As for `read_pairs`.

    Raises:
        FileNotFoundError, ImportError, ValueError: As `read_pairs` does.
    """
    layout = _choose(VIDEO_PRESETS, preset, dimensions, on_bad_row)
    found, rejected = _read_table(str(table), layout, dimensions, on_bad_row, check_videos)
    return VideoTable(tuple(found), tuple(rejected))


def _read_table(
    table: str,
    layout: Preset,
    dimensions: Sequence[str],
    on_bad_row: OnBadRow,
    check_videos: bool,
    row_names: str = "",
    ties: Sequence[str] | None = None,
) -> tuple[list[Any], list[Rejected]]:
    """Return what the layout makes of the rows, and the rows of which it makes nothing."""
    rows = list(_read_lines(table))
    if not rows:
        raise ValueError(f"{table}: expected at least one data row, got none")
    columns = tuple(dict.fromkeys(name for _, cells in rows if not isinstance(cells, BadCell) for name in cells))
    found: dict[str, Any] = {}
    rejected: list[Rejected] = []
    for number, (line, cells) in enumerate(rows, start=1):
        try:
            if isinstance(cells, BadCell):
                raise cells
            row = Row(table, number, columns, cells, row_names=row_names, ties=ties)
            read = layout.read(row, dimensions)
            if check_videos:
                _check_videos(row.videos)
            if read.id in found:
                raise BadCell("id", read.id, "expected an id that no earlier row has")
            found[read.id] = read
        except BadCell as bad:
            value = "" if bad.value is None else str(bad.value)[:500]
            rejected.append(Rejected(table, number, line, bad.column, value, bad.reason))
            if on_bad_row == "error" and bad.reason not in {NO_LABEL, _NOT_FOUND}:
                raise ValueError(f"{rejected[-1]}; correct it, or read with on_bad_row='skip'") from bad
    if on_bad_row == "error":
        _raise_not_found([bad for bad in rejected if bad.reason == _NOT_FOUND])
    return list(found.values()), rejected


def write_pairs(path: str | Path, pairs: Iterable[Pair], *, dimensions: Sequence[str] = ("overall",)) -> None:
    """Write pairs as JSONL in our own layout; `read_pairs` with the same `dimensions` returns them as they were.

    Video paths are written relative to the table's folder. The file appears whole or not at all.

    Args:
        path: The table, a `.jsonl` file in a folder that exists.
        pairs: The pairs; each holds one preference per dimension, at least one of them usable.
        dimensions: Name of each reward dimension; more than one are written as columns preference_<name>.

    Raises:
        ValueError: If the name does not end in `.jsonl`, or a pair's preferences are not as above.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"expected a table name that ends in .jsonl, got {path.name!r}")
    records = (_record(pair, path.parent, dimensions) for pair in pairs)
    text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)


def _choose(presets: Mapping[str, Preset], preset: str, dimensions: Sequence[str], on_bad_row: str) -> Preset:
    if on_bad_row not in {"error", "skip"}:
        raise ValueError(f"expected on_bad_row 'error' or 'skip', got {on_bad_row!r}")
    if preset not in presets:
        raise ValueError(f"expected a preset of {', '.join(presets)}, got {preset!r}")
    known = presets[preset].dimensions
    if not dimensions or (known and not set(dimensions) <= set(known)):
        expected = ", ".join(known) or "names of your choice"
        raise ValueError(f"preset {preset}: expected dimensions of {expected}, got {list(dimensions)}")
    return presets[preset]


def _check_videos(videos: Mapping[str, str]) -> None:
    if missing := [path for path in videos if not _may_be_there(path)]:
        raise BadCell(", ".join({videos[path]: None for path in missing}), ", ".join(missing), _NOT_FOUND)


def _may_be_there(path: str) -> bool:
    file = path.rpartition("::")[2]  # the tar file, where the video is a member of one
    return is_url(file) or os.path.isfile(file)


def _raise_not_found(rejected: Sequence[Rejected]) -> None:
    if rejected:
        shown = "\n".join(f"  {row}" for row in rejected[:10])
        raise FileNotFoundError(
            f"{len(rejected)} rows name videos that are not there; paths are relative to the table's folder. "
            f"Put the videos there, or read with on_bad_row='skip'. The first {min(10, len(rejected))}:\n{shown}"
        )


def _read_lines(table: str) -> Iterator[tuple[int | None, _Cells]]:
    """Yield the line where each row begins, and its cells or what is wrong with it."""
    suffix = PurePath(table).suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{table}: expected a table that ends in {', '.join(READERS)}")
    try:
        with fsspec.open(table, "rb") if is_url(table) else open(table, "rb") as file:
            yield from READERS[suffix](table, file)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{table}: expected {suffix[1:].upper()} text in UTF-8: {error}") from error


def _read_csv(table: str, file: BinaryIO) -> Iterator[tuple[int | None, _Cells]]:
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    try:
        header = next(reader, [])
        begin = reader.line_num + 1  # a quoted cell may run over several lines
        for cells in reader:
            if len(cells) == len(header):
                yield begin, dict(zip(header, cells, strict=True))
            elif cells:
                yield begin, BadCell("(all)", cells, f"expected {len(header)} cells, as many as the header has")
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: expected valid CSV: {error}") from error


def _read_jsonl(table: str, file: BinaryIO) -> Iterator[tuple[int | None, _Cells]]:
    for line, text in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), start=1):
        if text.strip():
            with suppress(json.JSONDecodeError):
                text = json.loads(text)
            yield line, _object(text)


def _read_json(table: str, file: BinaryIO) -> Iterator[tuple[int | None, _Cells]]:
    rows = json.loads(file.read().decode("utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError(f"{table}: expected a JSON list of objects, got {type(rows).__name__}")
    yield from ((None, _object(value)) for value in rows)


def _object(value: object) -> _Cells:
    return value if isinstance(value, dict) else BadCell("(all)", value, "expected a JSON object")


def _read_parquet(table: str, file: BinaryIO) -> Iterator[tuple[int | None, _Cells]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{table}: reading Parquet needs pyarrow; pip install 'descore[parquet]'") from error
    for batch in parquet.ParquetFile(file).iter_batches():
        yield from ((None, cells) for cells in batch.to_pylist())


READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}
"""How the rows of a table are read, by the end of its name."""


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
    except ValueError:  # outside the folder: ".." is only safe between paths without symbolic links
        return Path(os.path.relpath(Path(video).resolve(), folder.resolve())).as_posix()
