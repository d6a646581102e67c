"""A page of results as one HTML file that loads nothing: text, tables, figures, and pairs of videos to look through."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.figure
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from descore import atomic as folders
from descore.report.style import SERIES, to_svg

_SHORT = 28  # letters of a cell that is not broken into lines


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that is more than a value.

    Attributes:
        value: Text or a number.
        note: What stands beside it, smaller: an interval, a count.
        series: Place of the series whose colour marks it, from 0; None for no mark.
        strong: Whether it stands out, as the best of its column.
    """

    value: object
    note: str = ""
    series: int | None = None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        header: Names of the columns.
        rows: A cell per column: text, a number, None where there is nothing, or a `Cell`. Floats get three decimals.
        caption: What it shows.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure.

    Attributes:
        picture: A matplotlib figure, or an `<svg>` element that is put in as it is.
        caption: What it shows, and how to read it.
        title: A few words above it.
        alt: What a person hears who cannot see it; title and caption if empty.
    """

    picture: matplotlib.figure.Figure | str
    caption: str = ""
    title: str = ""
    alt: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page; figures come before tables.

    Attributes:
        title: Its heading.
        text: Plain paragraphs, with an empty line between two.
        figures: Shown two in a row where there is room.
        tables: Shown below each other.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True)
class Highlight:
    """A number that the page shows large.

    Attributes:
        value: The number as text.
        label: What it is.
        note: Its interval, or what it is compared with.
        series: Place of the series whose colour it has, from 0; None for none.
    """

    value: str
    label: str
    note: str = ""
    series: int | None = None


@dataclass(frozen=True, slots=True)
class Viewer:
    """Pairs to look through, as `descore.report.viewer.browse` makes it.

    Attributes:
        data: What the page's script reads, as plain values without nan.
        num_shown: Pairs in it.
        num_pairs: Pairs that it was chosen from.
        kinds: The same two numbers by kind of pair; an error or a failure of any run counts.
    """

    data: Mapping[str, Any]
    num_shown: int
    num_pairs: int
    kinds: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        title: Its heading.
        summary: Plain paragraphs below the heading.
        sections: Its parts.
        configuration: What was run and how, shown folded at the end: text, or values for JSON.
        viewer: Pairs to look through, after the sections.
        highlights: Numbers shown large, above the sections.
    """

    title: str
    summary: str = ""
    sections: Sequence[Section] = ()
    configuration: Mapping[str, Any] | str = ""
    viewer: Viewer | None = None
    highlights: Sequence[Highlight] = field(default=())


def write_page(page: Page, path: str | Path) -> Path:
    """Write a page as one HTML file; it appears whole or not at all, and is the same bytes for the same page.

    All text is escaped; what a prompt or a thought holds is shown, never run. The file's own policy lets a browser run
    the page's script alone, and load nothing.

    Args:
        page: The page.
        path: The file to write; its folder is made if it is not there.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = folders.draft_of(path)
    draft.write_text(render(page), encoding="utf-8")
    folders.replace(draft, path)
    return path


def render(page: Page) -> str:
    """Return a page as HTML."""
    environment = Environment(
        loader=PackageLoader("descore.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"paragraphs": _paragraphs, "cell": _cell, "classes": _classes}
    script = Markup(_source(environment, "page.js"))
    configuration = page.configuration
    if not isinstance(configuration, str):
        configuration = json.dumps(configuration, indent=2, ensure_ascii=False)
    return environment.get_template("page.html").render(
        page=page,
        pictures=_draw(page.sections),
        configuration=configuration,
        style=Markup(_source(environment, "page.css")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _draw(sections: Sequence[Section]) -> list[list[Markup]]:
    """Return the SVG of every figure, by section."""
    pictures = []
    for section_number, section in enumerate(sections, start=1):
        row = []
        for number, figure in enumerate(section.figures, start=1):
            prefix = f"figure-{section_number}-{number}"
            svg = figure.picture if isinstance(figure.picture, str) else to_svg(figure.picture, prefix)
            if not svg.lstrip().startswith("<svg"):
                raise ValueError(f"expected a matplotlib figure or text that begins with <svg, got {svg[:40]!r}")
            alt = figure.alt or " ".join(filter(None, (figure.title, figure.caption)))
            opening = Markup('<svg role="img" aria-label="{}"').format(alt)
            row.append(Markup(svg.replace("<svg", opening, 1)))
        pictures.append(row)
    return pictures


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _cell(value: object) -> Markup:
    cell = value if isinstance(value, Cell) else Cell(value)
    mark = Markup('<span class="mark" style="--color:var(--series-{})"></span>').format(_place(cell.series))
    note = Markup(' <span class="note">{}</span>').format(cell.note)
    return Markup("{}{}{}").format(
        mark if cell.series is not None else "", _text(cell.value), note if cell.note else ""
    )


def _place(series: int | None) -> int:
    return (series or 0) % len(SERIES) + 1


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _classes(value: object) -> str:
    """Return the CSS classes of a cell: numbers stand to the right, short text stays on one line."""
    cell = value if isinstance(value, Cell) else Cell(value)
    text = _text(cell.value)
    is_number = isinstance(cell.value, int | float | None) or re.fullmatch(r"[-+]?\d[\d.,]*( ?%)?", text) is not None
    classes = {"number": is_number, "short": len(text) + len(cell.note) < _SHORT, "best": cell.strong}
    return " ".join(name for name, holds in classes.items() if holds)
