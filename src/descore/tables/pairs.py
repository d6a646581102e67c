"""Read pair tables of every layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from descore.tables.formats import read_rows
from descore.tables.locations import is_url
from descore.tables.presets import PRESETS, VIDEO_PRESETS, Preset
from descore.tables.row import NO_LABEL, BadCell, MissingColumn, Row
from descore.types import Pair, RatedVideo

_NOT_FOUND = "video not found"
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
    rows = list(read_rows(table))
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
        except MissingColumn as missing:
            layouts = ", ".join([*PRESETS, *VIDEO_PRESETS])
            message = f"{table}: {missing}; rename it, or read with the preset of this layout: {layouts}"
            raise ValueError(message) from missing
    if on_bad_row == "error":
        _raise_not_found([bad for bad in rejected if bad.reason == _NOT_FOUND])
    return list(found.values()), rejected


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
