"""A page of results as one self-contained HTML file: text, tables, figures, and pairs of videos to look through."""

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

from descore import atomic
from descore.report.style import SERIES, to_svg

_SHORT = 28  # a cell with fewer letters is not broken into lines


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell with more than a value.

    Attributes:
        value: Text or number of the cell.
        note: Smaller text beside the value, such as an interval or a count.
        series: Index of the series whose colour marks the cell, from 0; None for no mark.
        strong: Whether the cell is highlighted, as the best of its column.
    """

    value: object
    note: str = ""
    series: int | None = None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page.

    Attributes:
        header: Names of the columns.
        rows: Rows with one cell per column: text, a number, None for an empty cell, or a `Cell`. Floats are shown with
            three decimals.
        caption: Text that says what the table shows.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a page.

    Attributes:
        picture: Matplotlib figure, or an `<svg>` element that is inserted unchanged.
        caption: Text below the figure: what it shows, and how to read it.
        title: Short title above the figure.
        alt: Alternative text for screen readers; title and caption if empty.
    """

    picture: matplotlib.figure.Figure | str
    caption: str = ""
    title: str = ""
    alt: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page: text, then figures, then tables.

    Attributes:
        title: Heading of the section.
        text: Plain text, with an empty line between paragraphs.
        figures: Figures, shown two in a row where there is room.
        tables: Tables, shown below each other.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True)
class Highlight:
    """A number that is shown large at the top of a page.

    Attributes:
        value: The number, as text.
        label: Name of what the number measures.
        note: Smaller text, such as an interval or what the number is compared with.
        series: Index of the series whose colour the number has, from 0; None for no colour.
    """

    value: str
    label: str
    note: str = ""
    series: int | None = None


@dataclass(frozen=True, slots=True)
class Viewer:
    """Pairs of videos to look through; `descore.report.viewer.browse` makes one.

    Attributes:
        data: Data for the page's script: plain JSON values without nan.
        num_shown: Number of pairs shown.
        num_pairs: Number of pairs that they were chosen from.
        kinds: The same two numbers for each kind of pair; a pair is an error or failed if it is for any run.
    """

    data: Mapping[str, Any]
    num_shown: int
    num_pairs: int
    kinds: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of results; `write_page` writes it to a file.

    Attributes:
        title: Heading of the page.
        summary: Plain text below the heading, with an empty line between paragraphs.
        sections: Sections of the page.
        configuration: Record of what was run and how, shown collapsed at the end: text, or values for JSON.
        viewer: Pairs of videos to look through, shown after the sections.
        highlights: Numbers that are shown large, above the sections.
    """

    title: str
    summary: str = ""
    sections: Sequence[Section] = ()
    configuration: Mapping[str, Any] | str = ""
    viewer: Viewer | None = None
    highlights: Sequence[Highlight] = field(default=())


def write_page(page: Page, path: str | Path) -> Path:
    """Write a page atomically as one HTML file; equal pages give equal bytes.

    All text is escaped, so markup in a prompt or a thought is shown and never run. The content security policy in the
    file lets a browser run only the page's own script, and load nothing.

    Args:
        page: Page to write.
        path: File to write; its folder is created if it does not exist.

    Returns:
        Path of the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = atomic.draft_of(path)
    draft.write_text(render(page), encoding="utf-8")
    atomic.replace(draft, path)
    return path


def render(page: Page) -> str:
    """Return a page as HTML.

    Raises:
        ValueError: If a figure is neither a matplotlib figure nor an `<svg>` element.

    >>> "<h1>R &amp; D</h1>" in render(Page("R & D"))
    True
    """
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
    """Return the SVG of every figure, as one list per section."""
    pictures = []
    for section_number, section in enumerate(sections, start=1):
        row = []
        for number, figure in enumerate(section.figures, start=1):
            prefix = f"figure-{section_number}-{number}"
            svg = figure.picture if isinstance(figure.picture, str) else to_svg(figure.picture, prefix)
            if not svg.lstrip().startswith("<svg"):
                raise ValueError(f"expected a matplotlib figure, or text that begins with <svg; got {svg[:40]!r}")
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
    """Return the CSS classes of a cell: numbers are right-aligned, and short text is kept on one line."""
    cell = value if isinstance(value, Cell) else Cell(value)
    text = _text(cell.value)
    is_number = isinstance(cell.value, int | float | None) or re.fullmatch(r"[-+]?\d[\d.,]*( ?%)?", text) is not None
    classes = {"number": is_number, "short": len(text) + len(cell.note) < _SHORT, "best": cell.strong}
    return " ".join(name for name, holds in classes.items() if holds)
