"""The common style of all figures: colours of series, sizes, and conversion to SVG for a page.

Colours are those of the page's light theme. In a page they become CSS variables, so that a figure is readable in the
light and the dark theme.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SERIES = ("#3b5bdb", "#e8590c", "#2b8a3e", "#9c36b5", "#0c8599", "#c2255c", "#846358", "#5c6773")
"""Colours of the series, in order; the page's CSS defines the same ones as --series-1 to --series-8."""

INK, MUTED, LINE = "#1c2026", "#636b76", "#e1e4e8"
"""Colours of text, of axes and reference lines, and of grids."""

WIDTH = 5.4
"""Width of a figure in inches: half a page or a phone's screen, where its text is as large as the page's."""

MARKERS = "os^DvPX*"

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "descore",
}
_VARIABLES = {INK: "currentColor", MUTED: f"var(--muted, {MUTED})", LINE: f"var(--line, {LINE})"} | {
    color: f"var(--series-{number}, {color})" for number, color in enumerate(SERIES, start=1)
}


def style() -> AbstractContextManager[None]:
    """Context manager: draw a figure of your own in the page's style."""
    return mpl.rc_context(_STYLE)


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each series, by its order; the ninth series has the first colour again.

    >>> colors_of(["stage 1", "stage 2"])
    {'stage 1': '#3b5bdb', 'stage 2': '#e8590c'}
    """
    return {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}


def new_figure(*, height: float = 3.0, rows: int = 1, columns: int = 1, width: float = WIDTH) -> tuple[Figure, Any]:
    """Make a figure and its axes in the page's style; draw on them inside `style()`.

    Args:
        height: Height of the figure in inches.
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        width: Width of the figure in inches.

    Returns:
        The figure, and its axes: a single one, or a numpy array of them.
    """
    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns)


def to_svg(figure: Figure, prefix: str) -> str:
    """Return a figure as an `<svg>` element, with text as text and colours that follow the page's theme.

    Args:
        figure: Figure to convert.
        prefix: Prefix of every id in the element; it must be unique among the figures of a page.
    """
    file = io.StringIO()
    with style():
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{prefix}-", text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda color: _VARIABLES.get(color[0], color[0]), text)


def legend_height(series: Mapping[str, object]) -> float:
    """Return the height in inches that a legend needs above its figure; 0 for a single series."""
    return 0.24 * math.ceil(len(series) / _legend_columns(series)) if len(series) > 1 else 0.0


def draw_legend(figure: Figure, axes: Axes, series: Mapping[str, object]) -> None:
    """Draw a legend above a figure if it has several series."""
    if len(series) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=_legend_columns(series), handlelength=1.4)


def _legend_columns(series: Mapping[str, object]) -> int:
    longest = max((len(name) for name in series), default=0)
    return max(1, min(len(series), 64 // (longest + 6)))
