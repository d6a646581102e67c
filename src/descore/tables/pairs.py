"""Reads tables of pairs and of rated videos, in our own and in published layouts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from descore.tables.faults import NO_LABEL, BadCell, MissingColumn, did_you_mean
from descore.tables.formats import read_rows
from descore.tables.locations import is_url
from descore.tables.presets import PRESETS, VIDEO_PRESETS, Preset
from descore.tables.row import Row
from descore.types import Pair, RatedVideo

OnBadRow = Literal["error", "skip"]

_NOT_FOUND = "video not found"
_SKIP = "leave bad rows out: --data.on_bad.row skip in training, --on-bad-row skip in descore evaluate"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row of a table that gave no pair or video.

    Attributes:
        file: Path or URL of the table.
        row: Number of the row, 1 for the first data row; a header and blank lines are not counted.
        line: Number of the line on which the row begins; None in Parquet.
        column: Column of the cell that is wrong.
        value: Content of that cell, up to 500 characters.
        reason: What was expected, or "no usable label", or "video not found".
    """

    file: str
    row: int
    line: int | None
    column: str
    value: str
    reason: str

    @classmethod
    def from_cell(cls, file: str, row: int, line: int | None, bad: BadCell) -> Rejected:
        """Describe the bad cell of a row."""
        value = "" if bad.value is None else str(bad.value)[:500]
        return cls(file, row, line, bad.column, value, bad.reason)

    def __str__(self) -> str:
        row = f"{self.row}" if self.line is None else f"{self.row} (line {self.line} of the file)"
        return f"{self.file}, data row {row}, column {self.column!r}: {self.reason}, got {self.value!r}"


@dataclass(frozen=True, slots=True)
class PairTable:
    """Result of `read_pairs`.

    Attributes:
        pairs: Pairs of the table, in the order of its rows.
        rejected: Rows that gave no pair, in the order of the table.
    """

    pairs: tuple[Pair, ...]
    rejected: tuple[Rejected, ...]

    def num_rejected(self) -> dict[str, int]:
        """Count the rejected rows by reason."""
        return dict(Counter(rejected.reason for rejected in self.rejected))


@dataclass(frozen=True, slots=True)
class VideoTable:
    """Result of `read_videos`.

    Attributes:
        videos: Videos of the table, in the order of its rows.
        rejected: Rows that gave no video, in the order of the table.
    """

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
    """Read a table of pairs.

    Our own layout has the columns prompt, video_a, video_b and preference (A, B, tie, or invalid where people could not
    tell). It may also have id; for each video, cot_a, scores_a, mos_a and generator_a; and thoughts about both videos,
    thought_a_first and thought_b_first. With several dimensions, the labels are in preference_<name>, and the opinion
    scores in mos_a_<name> and mos_b_<name>. The case of labels does not matter.

    A row whose label is declared unusable in every dimension (`invalid`, `Hard to judge`, `discard`) is rejected with
    the reason "no usable label"; it is never an error.

    Args:
        table: Path or URL of a .csv, .tsv, .jsonl, .json (a list of objects) or .parquet file. Video paths are relative
            to its folder, and may also be URLs.
        preset: Name of the layout: descore, descore_stage1, descore_stage2, genai_bench, mj_bench_video, videoalign
            (also for VideoGen-RewardBench), vision_reward_db or worldreward_bench.
        dimensions: Names of the reward dimensions to read; each pair gets one preference for each name.
        on_bad_row: What to do with a bad row: "error" stops at the first one, "skip" collects them in `rejected`.
        check_videos: Whether to check that the videos exist. All rows with a missing video are reported together.
            Remote videos are not checked.
        row_names: Prefix of the ids of rows without an id, before the number of the row.
        ties: Labels that count as a tie, such as tievote; the other tie labels of the layout are then unusable. None
            counts every tie label.

    Returns:
        The pairs, and the rows that gave no pair.

    Raises:
        FileNotFoundError: If the table does not exist, or a video does not exist and `on_bad_row` is "error".
        ImportError: If the table is Parquet and pyarrow is not installed.
        ValueError: If the preset or a dimension is unknown, a column is missing, the file does not have the format that
            its name says, or a row is bad and `on_bad_row` is "error". The message names file, row, line, column and
            value.

    >>> import tempfile
    >>> row = {"id": "p1", "prompt": "a cat", "video_a": "a.mp4", "video_b": "b.mp4", "preference": "A"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder, "pairs.csv")
    ...     _ = table.write_text(",".join(row) + chr(10) + ",".join(row.values()))
    ...     found = read_pairs(table, check_videos=False)
    >>> found.pairs[0].prompt, found.pairs[0].preference, found.rejected
    ('a cat', (1.0,), ())
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
    """Read a table of single videos with opinion scores.

    Our own layout has the columns prompt, video and mos, and may have id and generator. With several dimensions, the
    scores are in mos_<name>. A row without any score is rejected with the reason "no usable label".

    Args:
        table: Path or URL of a .csv, .tsv, .jsonl, .json (a list of objects) or .parquet file. Video paths are relative
            to its folder, and may also be URLs.
        preset: Name of the layout: descore_videos or videofeedback.
        dimensions: Names of the reward dimensions to read; each video gets one score for each name.
        on_bad_row: What to do with a bad row: "error" stops at the first one, "skip" collects them in `rejected`.
        check_videos: Whether to check that the videos exist; remote videos are not checked.

    Returns:
        The videos, and the rows that gave no video.

    Raises:
        FileNotFoundError: If the table does not exist, or a video does not exist and `on_bad_row` is "error".
        ImportError: If the table is Parquet and pyarrow is not installed.
        ValueError: If the preset or a dimension is unknown, a column is missing, the file does not have the format that
            its name says, or a row is bad and `on_bad_row` is "error".

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder, "videos.csv")
    ...     _ = table.write_text("prompt,video,mos" + chr(10) + "a cat,a.mp4,3.5")
    ...     found = read_videos(table, check_videos=False)
    >>> found.videos[0].id, found.videos[0].side.mos
    ('1', (3.5,))
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
    """Read the rows of a table; return the pairs or videos that the layout makes of them, and the rejected rows."""
    rows = list(read_rows(table))
    if not rows:
        raise ValueError(f"{table}: expected at least one data row, got none")
    columns = tuple(dict.fromkeys(name for row in rows for name in row.cells))
    found: dict[str, Any] = {}
    rejected: list[Rejected] = []
    for number, raw in enumerate(rows, start=1):
        try:
            if raw.fault:
                raise raw.fault
            row = Row(table, number, columns, raw.cells, row_names=row_names, ties=ties)
            read = layout.read(row, dimensions)
            if check_videos:
                _check_videos(row.videos)
            if read.id in found:
                raise BadCell("id", read.id, "expected an id that no earlier row has")
            found[read.id] = read
        except BadCell as bad:
            rejected.append(Rejected.from_cell(table, number, raw.line, bad))
            if on_bad_row == "error" and bad.reason not in {NO_LABEL, _NOT_FOUND}:
                raise ValueError(f"{rejected[-1]}; correct it, or {_SKIP}") from bad
        except MissingColumn as missing:
            layouts = ", ".join([*PRESETS, *VIDEO_PRESETS])
            message = f"{table}: {missing}; rename the column, or use the preset of this layout: {layouts}"
            raise ValueError(message) from missing
    if on_bad_row == "error":
        _raise_not_found([bad for bad in rejected if bad.reason == _NOT_FOUND])
    return list(found.values()), rejected


def _choose(presets: Mapping[str, Preset], preset: str, dimensions: Sequence[str], on_bad_row: str) -> Preset:
    if on_bad_row not in {"error", "skip"}:
        raise ValueError(f"expected on_bad_row 'error' or 'skip', got {on_bad_row!r}")
    if preset not in presets:
        meant = did_you_mean(preset, presets)
        raise ValueError(f"expected a preset among {', '.join(presets)}; got {preset!r}{meant}")
    known = presets[preset].dimensions
    unknown = [name for name in dimensions if known and name not in known]
    if not dimensions or unknown:
        expected = f"dimensions among {', '.join(known)}" if known else "at least one dimension"
        meant = "".join(did_you_mean(name, known) for name in unknown[:1])
        raise ValueError(f"preset {preset}: expected {expected}; got {list(dimensions)}{meant}")
    return presets[preset]


def _check_videos(videos: Mapping[str, str]) -> None:
    if missing := [path for path in videos if not _may_exist(path)]:
        raise BadCell(", ".join({videos[path]: None for path in missing}), ", ".join(missing), _NOT_FOUND)


def _may_exist(path: str) -> bool:
    file = path.rpartition("::")[2]  # of a member of a tar file, check the tar file
    return is_url(file) or os.path.isfile(file)


def _raise_not_found(rejected: Sequence[Rejected]) -> None:
    if rejected:
        shown = "\n".join(f"  {row}" for row in rejected[:10])
        subject = "1 row refers" if len(rejected) == 1 else f"{len(rejected)} rows refer"
        raise FileNotFoundError(
            f"{subject} to videos that do not exist; paths are relative to the table's folder. "
            f"Add the videos, or {_SKIP}. The first {min(10, len(rejected))}:\n{shown}"
        )
