"""Reads the rows of a table from CSV, JSONL, JSON or Parquet, without guessing types and with line numbers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import PurePath
from typing import Any, BinaryIO

from descore.tables.locations import is_url
from descore.tables.row import BadCell

Cells = Mapping[str, Any] | BadCell


def read_rows(table: str) -> Iterator[tuple[int | None, Cells]]:
    """Read the rows of a table.

    Args:
        table: Path or URL of a .csv, .jsonl, .json or .parquet file.

    Yields:
        Number of the line on which the row begins (None in JSON and Parquet), and its cells by column, or a `BadCell`
        if the row cannot be read.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If the table is Parquet and pyarrow is not installed.
        ValueError: If the file does not have the format that its name says.
    """
    suffix = PurePath(table).suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{table}: expected a file name that ends in {', '.join(READERS)}")
    try:
        with _open(table) as file:
            yield from READERS[suffix](table, file)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{table}: expected {suffix[1:].upper()} text in UTF-8: {error}") from error


def _open(table: str) -> AbstractContextManager[BinaryIO]:
    if not is_url(table):
        return open(table, "rb")
    import fsspec  # only for URLs: it takes as long to import as all that a local table needs

    file: AbstractContextManager[BinaryIO] = fsspec.open(table, "rb")
    return file


def _read_csv(table: str, file: BinaryIO) -> Iterator[tuple[int | None, Cells]]:
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    try:
        header = next(reader, [])
        begin = reader.line_num + 1  # a quoted cell may run over several lines
        for cells in reader:
            if len(cells) == len(header):
                yield begin, dict(zip(header, cells, strict=True))
            elif cells:
                yield begin, BadCell("(all)", cells, f"expected {len(header)} cells, as in the header")
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: expected valid CSV: {error}") from error


def _read_jsonl(table: str, file: BinaryIO) -> Iterator[tuple[int | None, Cells]]:
    for line, text in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), start=1):
        if text.strip():
            with suppress(json.JSONDecodeError):
                text = json.loads(text)
            yield line, _object(text)


def _read_json(table: str, file: BinaryIO) -> Iterator[tuple[int | None, Cells]]:
    rows = json.loads(file.read().decode("utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError(f"{table}: expected a JSON list of objects, got {type(rows).__name__}")
    yield from ((None, _object(value)) for value in rows)


def _object(value: object) -> Cells:
    return value if isinstance(value, dict) else BadCell("(all)", value, "expected a JSON object")


def _read_parquet(table: str, file: BinaryIO) -> Iterator[tuple[int | None, Cells]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{table}: reading Parquet requires pyarrow: pip install 'descore[parquet]'") from error
    for batch in parquet.ParquetFile(file).iter_batches():
        yield from ((None, cells) for cells in batch.to_pylist())


READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}
"""Function that reads the rows of a table, by file name suffix."""
