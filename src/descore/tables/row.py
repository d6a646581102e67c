"""Reads and checks the cells of one row of a table."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from descore.answer import AnswerError, find_answer, parse_scores
from descore.tables.faults import NO_LABEL, BadCell, MissingColumn, did_you_mean, listed
from descore.tables.json_text import parse_json
from descore.tables.locations import locate
from descore.types import DIMENSIONS, DimensionScores

NAN = math.nan
"""The one nan for labels: tuples compare elements by identity first, so pairs with this nan compare equal."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table. Its methods raise `BadCell` for a bad cell and `MissingColumn` for a missing column.

    Attributes:
        table: Path or URL of the table; video paths are relative to its folder.
        number: Number of the row, 1 for the first data row.
        columns: Names of all columns of the table.
        cells: Content of the row by column; None, NaN, blank text and an absent key all mean an empty cell.
        videos: Column of each video path that was read from this row.
        row_names: Prefix of the id of a row without an id, before its number.
        ties: Labels that count as a tie; the other tie labels of the layout are unusable. None counts every tie label.

    >>> row = Row("train/pairs.csv", 1, ["prompt", "video_a"], {"prompt": "a cat", "video_a": "a.mp4"})
    >>> row.id(), row.text("prompt"), row.video("video_a")
    ('1', 'a cat', 'train/a.mp4')
    """

    table: str
    number: int
    columns: Sequence[str]
    cells: Mapping[str, Any]
    videos: dict[str, str] = field(default_factory=dict)
    row_names: str = ""
    ties: Sequence[str] | None = None

    def has(self, column: str) -> bool:
        """Return whether the row's cell in a column exists and is not empty."""
        value = self.cells.get(column)
        return not (value is None or value != value or (isinstance(value, str) and not value.strip()))

    def id(self, column: str = "id") -> str:
        """Return the cell in the column of ids; if it is empty or missing, the row's number after `row_names`."""
        return self.name(column) or f"{self.row_names}{self.number}"

    def text(self, *columns: str) -> str:
        """Return the text in the first of these columns that the table has."""
        column = self._column(*columns)
        value = self.cells.get(column)
        if not self.has(column) or not isinstance(value, str):
            raise BadCell(column, value, "expected text")
        return _unicode(column, value)

    def texts(self, column: str) -> list[str]:
        """Return the texts in a cell that holds a list of at least one."""
        value = self.cells.get(self._column(column))
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.strip() for one in value):
            raise BadCell(column, value, "expected a list of texts")
        return [_unicode(column, one) for one in value]

    def name(self, column: str) -> str:
        """Return the text or number in a column as text; the empty text if it is empty or missing."""
        if not self.has(column):
            return ""
        value = self.cells[column]
        if isinstance(value, Mapping | list | bytes):
            raise BadCell(column, value, "expected text or a number")
        return _unicode(column, str(value))

    def video(self, *columns: str) -> str:
        """Return the video path in the first of these columns that the table has."""
        return self.path(self._column(*columns), self.text(*columns))

    def two_videos(self, column: str) -> tuple[str, str]:
        """Return the two video paths in a cell that holds a list, or a Python list as text."""
        value = self.cells.get(self._column(column))
        paths = value
        if isinstance(value, str):
            with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                paths = ast.literal_eval(value.strip())
        match paths:
            case [str(a), str(b)]:
                return self.path(column, a), self.path(column, b)
        raise BadCell(column, value, "expected a list of two video paths")

    def labels(self, columns: Sequence[str], legal: Mapping[str, float]) -> tuple[float, ...]:
        """Return the preference for the label in each column.

        Args:
            columns: Column of each label.
            legal: Preference for each legal label, in any case; nan for an unusable one.
        """
        known = {label.lower(): value for label, value in self._with_ties(legal).items()}
        labels = []
        for column in columns:
            cell = self.cells.get(self._column(column))
            if not isinstance(cell, str) or cell.strip().lower() not in known:
                raise BadCell(column, cell, f"expected {', '.join(legal)}")
            labels.append(cell.strip().lower())
        preference = tuple(known[label] for label in labels)
        if all(math.isnan(value) for value in preference):
            raise BadCell(", ".join(columns), ", ".join(labels), NO_LABEL)
        return preference

    def numbers(self, columns: Sequence[str]) -> tuple[float, ...]:
        """Return the number in each column, nan for an empty cell; an empty tuple if every cell is empty or missing."""
        if not any(self.has(column) for column in columns):
            return ()
        return tuple(self._number(column) if self.has(column) else NAN for column in columns)

    def ratings(self, columns: Sequence[str]) -> tuple[float, ...]:
        """Return the number in each column, nan for an empty cell; at least one cell must not be empty."""
        numbers = self.numbers([self._column(column) for column in columns])
        if not numbers:
            raise BadCell(", ".join(columns), "", NO_LABEL)
        return numbers

    def scores(self, column: str) -> DimensionScores:
        """Return the five dimension scores in a cell that holds an object, or its JSON as text."""
        value = self.cells.get(self._column(column))
        try:
            return parse_scores(parse_json(value) if isinstance(value, str) else value)
        except ValueError as error:
            reason = f"expected an object of {', '.join(DIMENSIONS)}, each 0, 1, 2 or N/A"
            raise BadCell(column, value, reason) from error

    def unfold(self, column: str, keys: Sequence[str]) -> Row:
        """Return the row with an additional cell `column.key` for each of these keys of the JSON object in a column."""
        value = self.cells.get(self._column(column))
        inner = _inner_object(value) if isinstance(value, str) else value
        if not isinstance(inner, Mapping):
            raise BadCell(column, value, f"expected a JSON object of {', '.join(keys)}")
        cells = {f"{column}.{key}": inner.get(key) for key in keys}
        return replace(self, columns=(*self.columns, *cells), cells={**self.cells, **cells})

    def _with_ties(self, legal: Mapping[str, float]) -> dict[str, float]:
        """Return the legal labels, with nan for the tie labels that do not count."""
        tied = [label for label, value in legal.items() if value == 0]
        ties = tied if self.ties is None else self.ties
        if unknown := sorted(set(ties) - set(tied)):
            expected = f"ties among {', '.join(tied)}" if tied else "no ties, which this layout does not have"
            meant = did_you_mean(unknown[0], tied)
            raise ValueError(f"{self.table}: expected {expected}; got {', '.join(unknown)}{meant}")
        return {label: NAN if label in tied and label not in ties else value for label, value in legal.items()}

    def _column(self, *columns: str) -> str:
        for column in columns:
            if column in self.columns:
                return column
        meant = did_you_mean(columns[0], self.columns)
        raise MissingColumn(f"expected a column {' or '.join(columns)}, got the columns {listed(self.columns)}{meant}")

    def path(self, column: str, cell: str) -> str:
        """Resolve a video path that was read from a column, and remember its column for error messages."""
        path = locate(self.table, _unicode(column, cell))
        self.videos[path] = column
        return path

    def _number(self, column: str) -> float:
        value = self.cells[column]
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.inf
        if isinstance(value, bool) or not math.isfinite(number):
            raise BadCell(column, value, "expected a number")
        return number


def _unicode(column: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadCell(column, text, "expected valid Unicode, found a lone surrogate") from error
    if "\0" in text:
        raise BadCell(column, text, "expected text without the character of code 0")
    return text


def _inner_object(text: str) -> Any:
    """Decode the JSON object in a cell: in its `<answer>` block, which may lack its end, or in the whole text."""
    try:
        text = text[slice(*find_answer(text))]
    except AnswerError:
        text = text.rpartition("<answer>")[2].strip()
    try:
        return parse_json(text, more=True)
    except ValueError:
        return None
