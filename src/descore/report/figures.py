"""One look for every figure: a colour per series, one size, and the kinds of picture that results need.

Colours are those of the page's light scheme. In a page they become its CSS variables, so that a figure is readable in
the light and in the dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SERIES = ("#3b5bdb", "#e8590c", "#2b8a3e", "#9c36b5", "#0c8599", "#c2255c", "#846358", "#5c6773")
"""Colour of each series, in order; the page's CSS has the same ones as --series-1 to --series-8."""

INK, MUTED, LINE = "#1c2026", "#636b76", "#e1e4e8"
"""Colours of text, of axes and references, and of grids."""

WIDTH = 5.4
"""Width of a figure in inches: as wide as half a page or a phone, with text as large as the page's there."""

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


class Estimate(NamedTuple):
    """A value and its interval, in the same unit; nan where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


def style() -> AbstractContextManager[None]:
    """Draw with the page's look inside a `with` block, for figures that no function here draws."""
    return mpl.rc_context(_STYLE)


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Give each series its colour, by its place; from the ninth on they begin again."""
    return {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}


def new_figure(*, height: float = 3.0, rows: int = 1, columns: int = 1, width: float = WIDTH) -> tuple[Figure, Any]:
    """Return a figure and its axes (one, or an array of them), sizes in inches; draw on it inside `style()`."""
    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns)


def bars(
    series: Mapping[str, Mapping[str, Estimate]],
    *,
    x_label: str = "",
    reference: float | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw horizontal bars with intervals, grouped by category.

    Args:
        series: The estimates by category, by name of the series; a category that a series lacks is left out.
        x_label: What is measured, and in what unit.
        reference: Where a dashed line goes, such as the accuracy of a coin.
        limits: Both ends of the axis.
        colors: Colour of each series, if not by its place.
    """
    categories = list(dict.fromkeys(name for values in series.values() for name in values))
    colors, thick = colors or colors_of(series), 0.8 / max(len(series), 1)
    height = 0.8 + len(categories) * max(0.3 * len(series), 0.42) + _legend_height(series)
    with style():
        figure, axes = new_figure(height=height)
        for row, (name, values) in enumerate(series.items()):
            places = [categories.index(category) - 0.4 + (row + 0.5) * thick for category in values]
            widths = [estimate.value for estimate in values.values()]
            axes.barh(places, widths, thick * 0.86, color=colors[name], alpha=0.85, label=name)
            for place, estimate in zip(places, values.values(), strict=True):
                _draw_bar_end(axes, place, estimate, limits)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlim=limits, ylim=(len(categories) - 0.45, -0.55), xlabel=x_label)
        axes.set_yticks(range(len(categories)), categories)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        _draw_legend(figure, axes, series)
    return figure


def lines(
    series: Mapping[str, Mapping[float, Estimate]],
    *,
    x_label: str = "",
    y_label: str = "",
    reference: float | None = None,
    log_x: bool = False,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a line with an interval at each point, per series.

    Args:
        series: The estimates by their place on the x axis, by name of the series.
        x_label: What the x axis shows, and in what unit.
        y_label: What is measured, and in what unit.
        reference: Where a dashed line goes, such as the accuracy of a coin.
        log_x: Whether each doubling along the x axis is as wide; its ticks are then the places themselves.
        colors: Colour of each series, if not by its place.
    """
    colors = colors or colors_of(series)
    with style():
        figure, axes = new_figure(height=2.9 + _legend_height(series))
        for row, (name, values) in enumerate(series.items()):
            x, y = list(values), [estimate.value for estimate in values.values()]
            axes.plot(x, y, color=colors[name], marker=MARKERS[row % len(MARKERS)], label=name)
            axes.vlines(x, [e.low for e in values.values()], [e.high for e in values.values()], color=colors[name])
        if reference is not None:
            axes.axhline(reference, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        if log_x:
            axes.set_xscale("log", base=2)
            places = sorted({place for values in series.values() for place in values})
            if len(places) > 5:
                places = [place for place in places if math.log2(place).is_integer()]
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.set_xticks([], minor=True)
        axes.set(xlabel=x_label, ylabel=y_label)
        _draw_legend(figure, axes, series)
    return figure


def curves(
    series: Mapping[str, Sequence[Mapping[int, float]]],
    *,
    x_label: str = "step",
    y_label: str = "",
    reference: float | None = None,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the mean over seeds at each step, in a band from the lowest seed to the highest, per series.

    Args:
        series: One mapping from step to value per seed, by name of the series. A step counts where all seeds have it.
        x_label: What the x axis shows.
        y_label: What is measured, and in what unit.
        reference: Where a dashed line goes.
        colors: Colour of each series, if not by its place.
    """
    colors = colors or colors_of(series)
    with style():
        figure, axes = new_figure(height=2.9 + _legend_height(series))
        for name, seeds in series.items():
            steps = sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []
            values = np.array([[seed[step] for step in steps] for seed in seeds]).reshape(len(seeds), len(steps))
            if steps:
                axes.plot(steps, values.mean(0), color=colors[name], label=name)
                axes.fill_between(steps, values.min(0), values.max(0), color=colors[name], alpha=0.18, linewidth=0)
        if reference is not None:
            axes.axhline(reference, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set(xlabel=x_label, ylabel=y_label)
        _draw_legend(figure, axes, series)
    return figure


def calibration_curves(
    series: Mapping[str, Sequence[tuple[float, float, int]]], *, colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw how often calls are right against how sure the margin is of them, with the number of pairs below.

    Args:
        series: Confidence, accuracy and number of pairs of each bin that has any, by name of the series.
        colors: Colour of each series, if not by its place.
    """
    colors = colors or colors_of(series)
    with style():
        figure = Figure(figsize=(WIDTH, 3.6 + _legend_height(series)), layout="constrained")
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        for row, (name, bins) in enumerate(series.items()):
            confidence, accuracy, num = ([point[i] for point in bins] for i in range(3))
            axes.plot(confidence, accuracy, color=colors[name], marker=MARKERS[row % len(MARKERS)], label=name)
            counts.plot(confidence, num, color=colors[name], marker=MARKERS[row % len(MARKERS)], markersize=3)
        low = min((bin_[0] for bins in series.values() for bin_ in bins), default=0.5)
        left = min(low, 0.5)
        axes.plot([left, 1], [left, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(ylabel="share that is right", ylim=(-0.03, 1.03))
        counts.set(xlabel="how sure the margin is, sigmoid of its size", ylabel="pairs", ylim=(0, None))
        counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        _draw_legend(figure, axes, series)
    return figure


def clouds(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "",
    y_label: str = "",
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw points, per series below each other, each with its own y axis.

    Args:
        series: The points, by name of the series.
        x_label: What the x axis shows, and in what unit.
        y_label: What the y axes show, and in what unit.
        colors: Colour of each series, if not by its place.
    """
    colors = colors or colors_of(series)
    with style():
        figure, grid = new_figure(height=0.7 + 1.7 * len(series), rows=len(series))
        for axes, (name, points) in zip(np.atleast_1d(grid), series.items(), strict=True):
            x, y = ([point[i] for point in points] for i in range(2))
            axes.scatter(x, y, s=14, color=colors[name], alpha=0.55, linewidths=0)
            axes.set(title=name, ylabel=y_label)
        np.atleast_1d(grid)[-1].set_xlabel(x_label)
    return figure


def margin_histograms(
    series: Mapping[str, Sequence[float]], *, x_label: str, num_bins: int = 30, colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw a histogram per series, one below the other, each in its own unit; what lies below 0 is paler.

    Args:
        series: The finite values, by name of the series.
        x_label: What is measured.
        num_bins: Bins from one end to the other; 0 is an edge between two.
        colors: Colour of each series, if not by its place.
    """
    colors = colors or colors_of(series)
    with style():
        figure, grid = new_figure(height=0.7 + 1.15 * len(series), rows=len(series))
        for axes, (name, values) in zip(np.atleast_1d(grid), series.items(), strict=True):
            end = max((abs(value) for value in values), default=0.0) or 1.0
            edges = np.linspace(-end, end, 2 * (num_bins // 2) + 1)
            counts, _ = np.histogram(list(values), edges)
            centres = (edges[1:] + edges[:-1]) / 2
            for side, alpha in ((centres < 0, 0.4), (centres > 0, 0.9)):
                axes.bar(centres[side], counts[side], np.diff(edges)[side] * 0.9, color=colors[name], alpha=alpha)
            axes.axvline(0, color=MUTED, linewidth=1)
            axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
            axes.set(title=name, ylabel="pairs")
        np.atleast_1d(grid)[-1].set_xlabel(x_label)
    return figure


def to_svg(figure: Figure, prefix: str) -> str:
    """Return a figure as an `<svg>` element, with text as text and colours that follow the page's scheme.

    Args:
        figure: The figure.
        prefix: Put before every id in it; no two figures of a page may have the same.
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


def _draw_bar_end(axes: Axes, place: float, estimate: Estimate, limits: tuple[float, float]) -> None:
    ends = [bound for bound in estimate if not math.isnan(bound)]
    if not ends:
        axes.text(limits[0] + 0.01 * (limits[1] - limits[0]), place, "no value", va="center", color=MUTED, fontsize=8)
        return
    if not math.isnan(estimate.low):
        axes.hlines(place, estimate.low, estimate.high, color=INK, linewidth=1.2)
    gap, text = 0.012 * (limits[1] - limits[0]), f"{estimate.value:.2f}"
    axes.text(max(ends) + gap, place, text, va="center", color=MUTED, fontsize=8, clip_on=False)


def _legend_columns(series: Mapping[str, object]) -> int:
    longest = max((len(name) for name in series), default=0)
    return max(1, min(len(series), 64 // (longest + 6)))


def _legend_height(series: Mapping[str, object]) -> float:
    return 0.24 * math.ceil(len(series) / _legend_columns(series)) if len(series) > 1 else 0.0


def _draw_legend(figure: Figure, axes: Axes, series: Mapping[str, object]) -> None:
    if len(series) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=_legend_columns(series), handlelength=1.4)
