"""Table layouts by name: each preset is a function from a row to a pair."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from descore.answer import AnswerError, parse_scores
from descore.locations import is_url, locate
from descore.types import DIMENSIONS, DimensionScores, Pair, RatedVideo, Side

NO_LABEL = "no usable label"
"""The reason of a row whose labels the layout itself declares unusable."""

_NAN = math.nan  # one object: tuples compare by identity first, so pairs with a nan label compare equal


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


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table. Its methods raise `BadCell` for a bad cell and `ValueError` for a column that is not there.

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
        return tuple(self._number(column) if self.has(column) else _NAN for column in columns)

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
        return {label: _NAN if label in tied and label not in ties else value for label, value in legal.items()}

    def _column(self, *columns: str) -> str:
        for column in columns:
            if column in self.columns:
                return column
        raise ValueError(
            f"{self.table}: expected a column {' or '.join(columns)}, got the columns {', '.join(self.columns)}; "
            f"rename it, or read with the preset of this layout: {', '.join([*PRESETS, *VIDEO_PRESETS])}"
        )

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


def _descore(row: Row, dimensions: Sequence[str]) -> Pair:
    def columns(stem: str) -> list[str]:
        named = [f"{stem}_{name}" for name in dimensions]
        return [stem] if len(named) == 1 and named[0] not in row.columns else named

    def side(key: str) -> Side:
        return Side(
            video=row.video(f"video_{key}"),
            thought=row.text(f"cot_{key}") if row.has(f"cot_{key}") else "",
            scores=row.scores(f"scores_{key}") if row.has(f"scores_{key}") else None,
            mos=row.numbers(columns(f"mos_{key}")),
            generator=row.name(f"generator_{key}"),
        )

    preference = row.labels(columns("preference"), {"A": 1.0, "B": -1.0, "tie": 0.0, "invalid": _NAN})
    return Pair(row.id(), row.text("prompt"), side("a"), side("b"), preference)


def _videoalign(row: Row, dimensions: Sequence[str]) -> Pair:
    a, b = (
        Side(
            row.video(f"path_{key}"),
            mos=row.numbers([f"MOS_{key}_{name}" for name in dimensions]),
            generator=row.name(f"{key}_model"),
        )
        for key in "AB"
    )
    preference = row.labels(dimensions, {"A": 1.0, "B": -1.0, "same": 0.0, "invalid": _NAN})
    return Pair(row.id(), row.text("prompt"), a, b, preference)


def _descore_stage1(row: Row, dimensions: Sequence[str]) -> Pair:
    video_a, video_b = row.two_videos("videos")
    a, b = Side(video_a, row.text("CoT_A")), Side(video_b, row.text("CoT_B"))
    preference = row.labels(["GSB"], {"A": 1.0, "B": -1.0, "same": 0.0, "invalid": _NAN})
    return Pair(row.id(), row.text("prompt", "problem"), a, b, preference)


def _descore_stage2(row: Row, dimensions: Sequence[str]) -> Pair:
    row = row.unfold("answer", ["video_1_scores", "video_2_scores", "gsb_result"])
    video_a, video_b = row.two_videos("videos")
    a = Side(video_a, scores=row.scores("answer.video_1_scores"))
    b = Side(video_b, scores=row.scores("answer.video_2_scores"))
    preference = row.labels(["answer.gsb_result"], {"Video 1 is better": 1.0, "Video 2 is better": -1.0})
    return Pair(row.id(), row.text("prompt", "problem"), a, b, preference)


def _genai_bench(row: Row, dimensions: Sequence[str]) -> Pair:
    a, b = (
        Side(row.video(f"{side}_video", f"{side}_video_path", f"video_{side}"), generator=row.name(f"{side}_model"))
        for side in ("left", "right")
    )
    preference = row.labels(["vote_type"], {"leftvote": 1.0, "rightvote": -1.0, "tievote": 0.0, "bothbad_vote": 0.0})
    return Pair(row.id(), row.text("prompt"), a, b, preference)


def _mj_bench_video(row: Row, dimensions: Sequence[str]) -> Pair:
    if str(row.cells.get("discard")).lower() == "true":
        raise BadCell("discard", row.cells["discard"], NO_LABEL)
    columns = ["overall_preference" if name == "overall" else f"category_preference.{name}" for name in dimensions]
    if columns != ["overall_preference"]:
        row = row.unfold("category_preference", [name for name in dimensions if name != "overall"])
    # "Video 1" is the first video, whose path is in video_0_path.
    legal = {"Video 1 better": 1.0, "Video 2 better": -1.0, "Same": 0.0, "Hard to judge": _NAN}
    a, b = Side(row.video("video_0_path")), Side(row.video("video_1_path"))
    return Pair(row.id(), row.text("caption"), a, b, row.labels(columns, legal))


def _vision_reward_db(row: Row, dimensions: Sequence[str]) -> Pair:
    a, b = Side(row.video("video1_path")), Side(row.video("video2_path"))
    preference = row.labels(["standard_answer"], {"video1": 1.0, "video2": -1.0, "tie": 0.0})
    return Pair(row.id(), row.text("prompt", "caption"), a, b, preference)


def _descore_videos(row: Row, dimensions: Sequence[str]) -> RatedVideo:
    named = [f"mos_{name}" for name in dimensions]
    columns = ["mos"] if len(named) == 1 and named[0] not in row.columns else named
    side = Side(row.video("video"), mos=row.ratings(columns), generator=row.name("generator"))
    return RatedVideo(row.id(), row.text("prompt"), side)


def _videofeedback(row: Row, dimensions: Sequence[str]) -> RatedVideo:
    link = row.text("video_path", "video link")
    # What the link leads to has to be fetched first, into `videos` beside the table.
    path = f"videos/{link.rpartition('/')[2]}" if is_url(link) else link
    side = Side(row.path("video_path" if row.has("video_path") else "video link", path), mos=row.ratings(dimensions))
    return RatedVideo(row.id(), row.text("prompt", "text prompt"), side)


@dataclass(frozen=True, slots=True)
class Preset:
    """A layout.

    Attributes:
        read: Makes a pair of a row and the names of the reward dimensions, or a video where each row has but one.
        dimensions: The names that the layout has labels for; empty where the author of a table chooses them.
    """

    read: Callable[[Row, Sequence[str]], Any]
    dimensions: tuple[str, ...] = ("overall",)


_MJ_CATEGORIES = ("Alignment", "Safety", "Fineness", "Coherence & Consistency", "Bias")

PRESETS = {
    "descore": Preset(_descore, dimensions=()),
    "descore_stage1": Preset(_descore_stage1),
    "descore_stage2": Preset(_descore_stage2),
    "genai_bench": Preset(_genai_bench),
    "mj_bench_video": Preset(_mj_bench_video, ("overall", *_MJ_CATEGORIES)),
    "videoalign": Preset(_videoalign, ("VQ", "MQ", "TA", "Overall")),
    "vision_reward_db": Preset(_vision_reward_db),
}

_VIDEOFEEDBACK = (
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)

VIDEO_PRESETS = {
    "descore_videos": Preset(_descore_videos, dimensions=()),
    "videofeedback": Preset(_videofeedback, _VIDEOFEEDBACK),
}
"""Layouts of single videos with opinion scores."""
