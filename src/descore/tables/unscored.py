"""Reads the videos to score from a table of any layout: a column `prompt`, and one or two columns of videos."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from descore.tables.faults import BadCell, listed
from descore.tables.formats import RawRow, read_rows
from descore.tables.locations import is_url, relative_to
from descore.tables.pairs import Rejected
from descore.tables.row import Row

VIDEO_COLUMNS = (("video",), ("path",), ("video_a", "video_b"), ("path_A", "path_B"))
"""Columns of videos that a table may have; it must have exactly one of these groups."""


@dataclass(frozen=True, slots=True)
class UnscoredRow:
    """A row with a prompt and its videos. Each video column is either in `videos` or in `errors`.

    Attributes:
        number: Number of the row, 1 for the first data row.
        line: Number of the line on which the row begins; None in Parquet.
        cells: All cells of the row by column, as read; only what could be read of them if the whole row is bad.
        prompt: Text that the videos were generated from; empty if it is bad.
        videos: Path of each video by column, resolved against the table's folder.
        errors: Why a video cannot be scored, by column: one line with file, row, column and value.
    """

    number: int
    line: int | None
    cells: Mapping[str, Any]
    prompt: str
    videos: Mapping[str, str]
    errors: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UnscoredTable:
    """Result of `read_unscored`.

    Attributes:
        columns: Names of all columns, in the order of the table.
        video_columns: Names of the columns of videos, one or two.
        rows: All rows, in the order of the table.
    """

    columns: tuple[str, ...]
    video_columns: tuple[str, ...]
    rows: tuple[UnscoredRow, ...]

    def placed_in(self, folder: str | Path) -> UnscoredTable:
        """Return the table as it has to read in a folder: its relative paths are relative to that folder."""
        rows = [
            replace(row, cells={**row.cells, **{c: _cell_in(folder, row.cells[c], p) for c, p in row.videos.items()}})
            for row in self.rows
        ]
        return replace(self, rows=tuple(rows))

    def videos(self) -> list[str]:
        """Return the paths of all videos that can be scored."""
        return [path for row in self.rows for path in row.videos.values()]


def read_unscored(table: str | Path) -> UnscoredTable:
    r"""Read the videos to score from a table, which needs no labels.

    The table has a column `prompt`, and one of: `video`; `path`; `video_a` and `video_b`; `path_A` and `path_B`. A row
    that cannot be used is an item with its reason, and does not stop the others. Whether the videos exist is not
    checked.

    Args:
        table: Path or URL of a .csv, .tsv, .jsonl, .json (a list of objects) or .parquet file. Video paths are relative
            to its folder, and may also be URLs.

    Raises:
        FileNotFoundError: If the table does not exist.
        ImportError: If the table is Parquet and pyarrow is not installed.
        ValueError: If the file does not have the format that its name says, has no rows, or does not have the columns.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "videos.csv")
    ...     _ = file.write_text("id,prompt,video\n7,a cat,/clips/a.mp4\n8,,/clips/b.mp4\n")
    ...     first, second = read_unscored(file).rows
    >>> first.cells["id"], first.prompt, first.videos, first.errors
    ('7', 'a cat', {'video': '/clips/a.mp4'}, {})
    >>> second.errors["video"].partition("column")[2]
    " 'prompt': expected text, got ''"
    """
    name = str(table)
    rows = list(read_rows(name))
    if not rows:
        raise ValueError(f"{name}: expected at least one data row, got none")
    columns = tuple(dict.fromkeys(column for row in rows for column in row.cells))
    videos = _video_columns(name, columns)
    read = (_read_row(name, number, columns, videos, row) for number, row in enumerate(rows, start=1))
    return UnscoredTable(columns, videos, tuple(read))


def list_videos(prompt: str, videos: Sequence[str], table: str | Path | None = None) -> UnscoredTable:
    """Return video files of one prompt as a table with the columns `prompt` and `video`.

    Args:
        prompt: Text that all videos were generated from.
        videos: Paths of the video files.
        table: Table that the rows will be written to; its cells name the videos relative to its folder. If not given,
            the cells name them as given.

    >>> list_videos("a cat", ["clips/a.mp4"], "clips/scores.csv").rows[0].cells
    {'prompt': 'a cat', 'video': 'a.mp4'}
    """
    rows = []
    for number, video in enumerate(videos, start=1):
        cell = video if table is None else relative_to(video, Path(table).parent)
        cells = {"prompt": prompt, "video": cell}
        rows.append(UnscoredRow(number, None, cells, prompt, {"video": video}, {}))
    return UnscoredTable(("prompt", "video"), ("video",), tuple(rows))


def _cell_in(folder: str | Path, cell: Any, path: str) -> Any:
    remote = is_url(path) or "::" in path or os.path.isabs(str(cell))
    same = os.path.realpath(path) == os.path.realpath(os.path.join(folder, str(cell)))
    return cell if remote or same else relative_to(path, Path(folder))


def _video_columns(table: str, columns: Sequence[str]) -> tuple[str, ...]:
    found = [names for names in VIDEO_COLUMNS if set(names) <= set(columns)]
    if "prompt" in columns and len(found) == 1:
        return found[0]
    choices = ", or ".join(" and ".join(names) for names in VIDEO_COLUMNS)
    expected = f"expected a column prompt, and exactly one of {choices}"
    raise ValueError(f"{table}: {expected}; found {listed(columns)}; rename or remove columns")


def _read_row(
    table: str, number: int, columns: Sequence[str], video_columns: Sequence[str], raw: RawRow
) -> UnscoredRow:
    row = Row(table, number, columns, raw.cells)
    prompt, videos, errors = "", {}, {}
    for column in video_columns:
        try:
            if raw.fault:
                raise raw.fault
            prompt = row.text("prompt")
            videos[column] = row.video(column)
        except BadCell as bad:
            errors[column] = str(Rejected.from_cell(table, number, raw.line, bad))
    return UnscoredRow(number, raw.line, raw.cells, prompt, videos, errors)
