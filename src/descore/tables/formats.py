"""Reads the rows of a table from CSV, TSV, JSONL, JSON or Parquet, without guessing types and with line numbers."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from descore.tables.faults import BadCell, listed, printable
from descore.tables.json_text import decode_json
from descore.tables.locations import is_url

_BLANK = re.compile(r"[ \t\r\n]*")
_NEWLINE = b"\n"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in a table.

    Attributes:
        line: Number of the line on which the row begins; None in Parquet.
        cells: Content of the row by column, in the order of the table; what could be read of it if there is a fault.
        fault: What makes the whole row unusable, if anything.
    """

    line: int | None
    cells: Mapping[str, Any]
    fault: BadCell | None = None


def read_rows(table: str) -> Iterator[RawRow]:
    """Read the rows of a table. Blank lines, and lines of empty cells alone, are left out.

    Text formats are UTF-8, with or without a byte order mark. The columns of a .csv file are separated by the first of
    comma, semicolon and tab that separates its header; those of a .tsv file by tabs.

    Args:
        table: Path or URL of a .csv, .tsv, .jsonl, .json or .parquet file; the case of the ending does not matter.

    Yields:
        The rows, from the first to the last.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If the table is Parquet and pyarrow is not installed.
        ValueError: If the file does not have the format that its name says, or two columns have one name.
    """
    suffix = PurePath(table).suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{table}: expected a file name that ends in {', '.join(READERS)}")
    yield from READERS[suffix](table, _read(table))


def _read(table: str) -> bytes:
    if is_url(table):
        import fsspec  # only for URLs: it takes as long to import as all that a local table needs

        with fsspec.open(table, "rb") as file:
            content: bytes = file.read()
        return content
    if not os.path.exists(table):
        raise FileNotFoundError(f"{table}: expected a table, found no file of this name")
    if not os.path.isfile(table):
        raise ValueError(f"{table}: expected a table, found a {'folder' if os.path.isdir(table) else 'special file'}")
    with open(table, "rb") as local:
        return local.read()


def _decode(table: str, content: bytes) -> str:
    """Decode a text; what is not UTF-8 is refused, with the line and the command that converts it."""
    encoding = json.detect_encoding(content[:4]).upper().replace("-LE", "LE").replace("-BE", "BE")
    if not encoding.startswith("UTF-8"):
        raise ValueError(f"{table}: expected UTF-8, found {encoding}; {_conversion(table, encoding)}")
    if b"\0" in content:
        where = f"{table}, line {content.count(_NEWLINE, 0, content.index(0)) + 1}"
        raise ValueError(f"{where}: expected UTF-8 text, found a zero byte; the file is not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(_NEWLINE, 0, error.start) + 1
        found = f"{table}, line {line}: expected UTF-8, found the byte 0x{content[error.start]:02X}"
        raise ValueError(f"{found}; if it was saved by a spreadsheet, {_conversion(table, 'WINDOWS-1252')}") from error


def _conversion(table: str, encoding: str) -> str:
    converted = PurePath(table).with_suffix(f".utf8{PurePath(table).suffix}")
    names = f"{shlex.quote(table)} > {shlex.quote(str(converted))}"
    return f"convert it with: iconv -f {encoding} -t UTF-8 {names}"


def _read_csv(table: str, content: bytes, separators: str = ",;\t") -> Iterator[RawRow]:
    text = _decode(table, content)
    limit = csv.field_size_limit(len(text) + 1)  # the text is in memory: no cell is too long
    try:
        separator = next((sign for sign in separators if _num_columns(text, sign) > 1), ",")
        (begin, header), *rows = list(_csv_lines(table, text, separator)) or [(1, [])]
    finally:
        csv.field_size_limit(limit)
    _check_names(f"{table}, line {begin}", header)
    for line, cells in rows:
        found = dict(zip(header, cells, strict=False))
        fault = BadCell("(all)", cells, f"expected {len(header)} cells, as in the header")
        yield RawRow(line, found, fault if len(cells) != len(header) else None)


def _read_tsv(table: str, content: bytes) -> Iterator[RawRow]:
    return _read_csv(table, content, separators="\t")


def _num_columns(text: str, separator: str) -> int:
    reader = csv.reader(_lines(text), delimiter=separator)
    return len(next((cells for cells in reader if any(cell.strip() for cell in cells)), []))


def _csv_lines(table: str, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins and its cells; a quoted cell may run over several lines."""
    begin = 1
    try:
        reader = csv.reader(_lines(text), delimiter=separator, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        advice = "close every quote, and double those inside a quoted cell, or write the table as .jsonl"
        expected = f"expected valid CSV: {printable(str(error))}; {advice}"
        raise ValueError(f"{table}, row from line {begin}: {expected}") from error


def _lines(text: str) -> io.StringIO:
    return io.StringIO(text, newline="")


def _check_names(where: str, names: Iterable[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{where}: expected a name of its own for each column, found twice: {listed(twice)}; rename one"
        )


def _read_jsonl(table: str, content: bytes) -> Iterator[RawRow]:
    for line, text in enumerate(io.StringIO(_decode(table, content), newline=None), start=1):
        if text := text.strip():
            yield _json_line(line, text)


def _json_line(line: int, text: str) -> RawRow:
    try:
        value, end, fault = decode_json(text)
    except BadCell as bad:
        return RawRow(line, {}, bad)
    except ValueError:
        value, end, fault = text, len(text), None
    return _json_row(line, value if end == len(text) else text, fault)


def _read_json(table: str, content: bytes) -> Iterator[RawRow]:
    """Decode a list value by value: what is wrong with one is a fault of its row alone."""
    text = _decode(table, content)
    start, line, counted = _skip(text, 0), 1, 0
    if not text.startswith("[", start):
        raise ValueError(f"{table}: expected a JSON list of objects; a file with one object per line ends in .jsonl")
    start = _skip(text, start + 1)
    more = not text.startswith("]", start)
    try:
        while more:
            line, counted = line + text.count("\n", counted, start), start
            value, end, fault = decode_json(text, start)
            yield _json_row(line, value, fault)
            start = _skip(text, end)
            if more := text.startswith(",", start):
                start = _skip(text, start + 1)
        if text[start:].rstrip() != "]":
            raise json.JSONDecodeError("Expecting ',' or the end of the list", text, start)
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}, line {error.lineno}: expected valid JSON: {error.msg}") from error
    except ValueError as error:
        raise ValueError(f"{table}, line {line}: {error}") from error


def _skip(text: str, start: int) -> int:
    found = _BLANK.match(text, start)
    return found.end() if found else start


def _json_row(line: int, value: object, fault: BadCell | None) -> RawRow:
    if isinstance(value, dict):
        return RawRow(line, value, fault)
    return RawRow(line, {}, fault or BadCell("(all)", value, "expected a JSON object"))


def _read_parquet(table: str, content: bytes) -> Iterator[RawRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{table}: reading Parquet requires pyarrow: pip install 'descore[parquet]'") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        _check_names(table, file.schema_arrow.names)
        for batch in file.iter_batches():
            yield from (RawRow(None, cells) for cells in batch.to_pylist())
    except (pyarrow.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        found = f"expected valid Parquet, which this file is not, or not whole: {printable(str(error)[:300])}"
        raise ValueError(f"{table}: {found}") from error


READERS: Mapping[str, Callable[[str, bytes], Iterator[RawRow]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
"""Function that reads the rows of a table from the content of its file, by file name suffix."""
