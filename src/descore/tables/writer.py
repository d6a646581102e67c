"""Writes tables: pairs in our own layout, and rows of any layout in every format that is read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from descore.answer import NOT_ASKED
from descore.atomic import check_writable, write_whole
from descore.tables.formats import READERS
from descore.tables.locations import is_url, relative_to
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


def check_output(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that a table can be written, and create its folder: to be called before hours of work on its rows.

    Args:
        path: Table to write.
        inputs: Files that must not be overwritten.

    Raises:
        ImportError: If the table is Parquet and pyarrow is not installed.
        OSError: If the folder cannot be written to.
        ValueError: If the name has no known ending, or is that of a URL, a folder or an input.
    """
    path, name = Path(path), str(path)
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{name}: expected a name for the output that ends in {', '.join(READERS)}")
    if is_url(name) or path.is_dir():
        raise ValueError(f"{name}: expected a local file to write, found a {'URL' if is_url(name) else 'folder'}")
    if path.exists() and any(os.path.exists(one) and os.path.samefile(one, path) for one in inputs):
        raise ValueError(f"{name}: expected a new file to write, found one of the inputs; choose another name")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise ImportError(f"{name}: writing Parquet requires pyarrow: pip install 'descore[parquet]'")
    check_writable(path.parent)


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]], *, inputs: Iterable[str | Path] = ()) -> None:
    """Write rows as a table, in the format that its name says; the file appears complete or not at all.

    The columns are those of all rows, in the order in which they first occur. CSV is separated by commas. In CSV and
    TSV, None is an empty cell, and what is not text is written as JSON. In Parquet, so
    is a column of mixed types.

    Args:
        path: Table to write: .csv, .tsv, .jsonl, .json or .parquet. An existing file is replaced.
        rows: Cells of each row by column.
        inputs: Files that must not be overwritten.

    Raises:
        ImportError, OSError, ValueError: As `check_output`, which is called first.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rows(f"{folder}/scored.csv", [{"id": "1", "reward": None}, {"id": "2", "reward": 0.5}])
    ...     Path(folder, "scored.csv").read_text().split()
    ['id,reward', '1,', '2,0.5']
    """
    check_output(path, inputs)
    write_whole(Path(path), _WRITERS[Path(path).suffix.lower()](rows))


def _separated(rows: Sequence[Mapping[str, Any]], separator: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(columns := _columns(rows))
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return _encode(text.getvalue())


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return _encode("".join(f"{_json(row)}\n" for row in rows))


def _json_list(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return _encode("[" + ",\n".join(_json(row) for row in rows) + "]\n")


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    def column(name: str) -> Any:
        cells = [row.get(name) for row in rows]
        try:
            array = pyarrow.array(cells)
            trial = io.BytesIO()  # not every type can be stored, and not every one read back
            parquet.write_table(pyarrow.table({name: array}), trial)
            parquet.read_schema(trial)
            return array
        except (pyarrow.ArrowException, OSError, OverflowError, UnicodeEncodeError):
            return pyarrow.array([None if cell is None else _encode(_cell(cell)).decode() for cell in cells])

    file = io.BytesIO()
    parquet.write_table(pyarrow.table({name: column(name) for name in _columns(rows)}), file)
    return file.getvalue()


_WRITERS = {
    ".csv": _separated,
    ".tsv": lambda rows: _separated(rows, "\t"),
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
}


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _encode(text: str) -> bytes:
    r"""Encode text; what no text file may hold, a lone surrogate and the character of code 0, becomes \ud800 and \0."""
    return text.replace("\0", r"\0").encode(errors="backslashreplace")


def _record(pair: Pair, folder: Path, dimensions: Sequence[str]) -> dict[str, Any]:
    usable = {value for value in pair.preference if not math.isnan(value)}
    if len(pair.preference) != len(dimensions) or not usable or not usable <= set(_LABELS):
        expected = f"+1, -1, 0 or nan for each of {', '.join(dimensions)}, not nan for all"
        raise ValueError(f"pair {pair.id!r}: expected a preference of {expected}, got {pair.preference}")
    suffixes = [""] if len(dimensions) == 1 else [f"_{name}" for name in dimensions]
    record: dict[str, Any] = {"id": pair.id, "prompt": pair.prompt}
    for key, side in (("a", pair.a), ("b", pair.b)):
        record[f"video_{key}"] = relative_to(side.video, folder)
        if side.thought:
            record[f"cot_{key}"] = side.thought
        if side.scores is not None:
            record[f"scores_{key}"] = {n: NOT_ASKED if score is None else score for n, score in side.scores.items()}
        if side.generator:
            record[f"generator_{key}"] = side.generator
        for suffix, value in zip(suffixes, side.mos, strict=bool(side.mos)):
            record[f"mos_{key}{suffix}"] = None if math.isnan(value) else value
    for key, thought in zip("ab", pair.thoughts, strict=True):
        if thought:
            record[f"thought_{key}_first"] = thought
    labels = (_LABELS.get(value, "invalid") for value in pair.preference)
    return record | {f"preference{suffix}": label for suffix, label in zip(suffixes, labels, strict=True)}
