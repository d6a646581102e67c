"""One row of a table, read cell by cell."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from descore.answer import AnswerError, parse_scores
from descore.tables.locations import locate
from descore.types import DIMENSIONS, DimensionScores

NO_LABEL = "no usable label"
"""The reason of a row whose labels the layout itself declares unusable."""

NAN = math.nan
"""One object: tuples compare by identity first, so pairs with a nan label compare equal."""


class BadCell(ValueError):
    """A cell that cannot be used.

    Attributes:
        column: Its column.
        value: What it holds.
        reason: What was expected, in words that do not depend on the value.
    """

    def __init__(self, column: str, value: object, reason: str) -> None:
        super().__init__(f"column {column!r}: {reason}, got {value!r}")
        self.column, self.value, self.reason = column, value, reason


class MissingColumn(ValueError):
    """A column that the layout needs and the table does not have."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table. Its methods raise `BadCell` for a bad cell and `MissingColumn` for a missing column.

    Attributes:
        table: The file, or its URL; video paths are relative to its folder.
        number: 1 for the first data row.
        columns: Every column of the table.
        cells: What the row holds; None, NaN, blank text and an absent key are all empty cells.
        videos: The column that named each video path; filled as the paths are read.
        row_names: What comes before the number of a row that has no id of its own.
        ties: The labels that count as a tie; those that do not, though the layout says so, are unusable. None: all.
    """

    table: str
    number: int
    columns: Sequence[str]
    cells: Mapping[str, Any]
    videos: dict[str, str] = field(default_factory=dict)
    row_names: str = ""
    ties: Sequence[str] | None = None

    def has(self, column: str) -> bool:
        """Return whether the row has a cell in the column that is not empty."""
        value = self.cells.get(column)
        return not (value is None or value != value or (isinstance(value, str) and not value.strip()))

    def id(self) -> str:
        """Return the cell `id`, or the row's number where it is empty or there is no such column."""
        return str(self.cells["id"]) if self.has("id") else f"{self.row_names}{self.number}"

    def text(self, *columns: str) -> str:
        """Return the text in the first of the columns that the table has."""
        column = self._column(*columns)
        value = self.cells.get(column)
        if not self.has(column) or not isinstance(value, str):
            raise BadCell(column, value, "expected text")
        return value

    def name(self, column: str) -> str:
        """Return what a cell holds as text; nothing where it is empty or there is no such column."""
        return str(self.cells[column]) if self.has(column) else ""

    def video(self, *columns: str) -> str:
        """Return the path in the first of the columns that the table has."""
        return self.path(self._column(*columns), self.text(*columns))

    def two_videos(self, column: str) -> tuple[str, str]:
        """Return two paths, from a list or the text of a Python list."""
        value = self.cells.get(self._column(column))
        paths = value
        if isinstance(value, str):
            with suppress(ValueError, SyntaxError):
                paths = ast.literal_eval(value.strip())
        match paths:
            case [str(a), str(b)]:
                return self.path(column, a), self.path(column, b)
        raise BadCell(column, value, "expected a list of two video paths")

    def labels(self, columns: Sequence[str], legal: Mapping[str, float]) -> tuple[float, ...]:
        """Return the preference that each label means, in any case; nan in `legal` marks the unusable ones."""
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
        """Return a number per column, nan for an empty cell; nothing where every cell is empty or has no column."""
        if not any(self.has(column) for column in columns):
            return ()
        return tuple(self._number(column) if self.has(column) else NAN for column in columns)

    def ratings(self, columns: Sequence[str]) -> tuple[float, ...]:
        """Return a number per column, each of which the table has; nan for an empty cell, but not for all of them."""
        numbers = self.numbers([self._column(column) for column in columns])
        if not numbers:
            raise BadCell(", ".join(columns), "", NO_LABEL)
        return numbers

    def scores(self, column: str) -> DimensionScores:
        """Return the five dimension scores, from an object or its JSON text."""
        value = self.cells.get(self._column(column))
        try:
            return parse_scores(json.loads(value) if isinstance(value, str) else value)
        except (AnswerError, json.JSONDecodeError) as error:
            reason = f"expected an object of {', '.join(DIMENSIONS)}, each 0, 1, 2 or N/A"
            raise BadCell(column, value, reason) from error

    def unfold(self, column: str, keys: Sequence[str]) -> Row:
        """Return the row with a cell `column.key` for each key of an object or of the text that holds its JSON."""
        value = self.cells.get(self._column(column))
        inner = _last_object(value) if isinstance(value, str) else value
        if not isinstance(inner, Mapping):
            raise BadCell(column, value, f"expected a JSON object of {', '.join(keys)}")
        cells = {f"{column}.{key}": inner.get(key) for key in keys}
        return replace(self, columns=(*self.columns, *cells), cells={**self.cells, **cells})

    def _with_ties(self, legal: Mapping[str, float]) -> dict[str, float]:
        """Leave only the wanted ties among the labels."""
        tied = [label for label, value in legal.items() if value == 0]
        ties = tied if self.ties is None else self.ties
        if unknown := set(ties) - set(tied):
            expected = ", ".join(tied) or "no tie at all"
            raise ValueError(f"{self.table}: expected ties of {expected}, got {', '.join(sorted(unknown))}")
        return {label: NAN if label in tied and label not in ties else value for label, value in legal.items()}

    def _column(self, *columns: str) -> str:
        for column in columns:
            if column in self.columns:
                return column
        raise MissingColumn(f"expected a column {' or '.join(columns)}, got the columns {', '.join(self.columns)}")

    def path(self, column: str, cell: str) -> str:
        """Return the path that a cell, or what was made of it, points to."""
        path = locate(self.table, cell)
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


def _last_object(text: str) -> Any:
    """Decode the object after the last `<answer>` tag; a code fence and a closing tag around it do not matter."""
    start = text.find("{", text.rfind("<answer>") + 1)
    try:
        return json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except json.JSONDecodeError:
        return None
