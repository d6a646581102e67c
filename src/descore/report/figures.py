"""Figures of results, all in one style: bars, lines, curves over seeds, calibration, scatter plots, histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from descore.evaluation.percentages import percent as percentage
from descore.report.style import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    WIDTH,
    colors_of,
    draw_legend,
    legend_height,
    new_figure,
    style,
    to_svg,
)

__all__ = [
    "SERIES",
    "WIDTH",
    "Estimate",
    "bars",
    "calibration_curves",
    "colors_of",
    "curves",
    "lines",
    "margin_histograms",
    "new_figure",
    "scatter_plots",
    "style",
    "to_svg",
]


_PERCENT = PercentFormatter(1.0, decimals=0, symbol=" %")
_DASHED: Any = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}


class Estimate(NamedTuple):
    """A value and its interval, in the same unit.

    Attributes:
        value: The value; nan if there is none.
        low: Lower end of the interval; nan if there is none.
        high: Upper end of the interval; nan if there is none.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def bars(
    series: Mapping[str, Mapping[str, Estimate]],
    *,
    x_label: str = "",
    reference: float | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    percent: bool = False,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw horizontal bars with intervals, grouped by category.

    Args:
        series: Estimates by category, for each series by name. A series need not have every category.
        x_label: Quantity on the x axis, and its unit.
        reference: Value of a dashed line, such as the level of chance; no line if not given.
        limits: Ends of the x axis.
        percent: Whether the estimates are shares, to be written as percentages.
        colors: Colour of each series by name; `colors_of` the series if not given.

    >>> figure = bars({"stage 2": {"in-domain": Estimate(0.81, 0.77, 0.85), "out-of-domain": Estimate(0.7)}})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['in-domain', 'out-of-domain']
    """
    categories = list(dict.fromkeys(name for values in series.values() for name in values))
    colors, thick = colors or colors_of(series), 0.8 / max(len(series), 1)
    height = 0.8 + len(categories) * max(0.3 * len(series), 0.42) + legend_height(series)
    with style():
        figure, axes = new_figure(height=height)
        for row, (name, values) in enumerate(series.items()):
            centres = [categories.index(category) - 0.4 + (row + 0.5) * thick for category in values]
            widths = [estimate.value for estimate in values.values()]
            axes.barh(centres, widths, thick * 0.86, color=colors[name], alpha=0.85, label=name)
            for centre, estimate in zip(centres, values.values(), strict=True):
                text = percentage(estimate.value) if percent else f"{estimate.value:.2f}"
                _draw_bar_end(axes, centre, estimate, limits, text)
        if reference is not None:
            axes.axvline(reference, **_DASHED)
        axes.set(xlim=limits, ylim=(len(categories) - 0.45, -0.55), xlabel=x_label)
        axes.set_yticks(range(len(categories)), categories)
        if percent:
            axes.xaxis.set_major_formatter(_PERCENT)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        draw_legend(figure, axes, series)
    return figure


def lines(
    series: Mapping[str, Mapping[float, Estimate]],
    *,
    x_label: str = "",
    y_label: str = "",
    reference: float | None = None,
    log_x: bool = False,
    percent: bool = False,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a line per series, with an interval at each point.

    Args:
        series: Estimates by x value, for each series by name.
        x_label: Quantity on the x axis, and its unit.
        y_label: Quantity on the y axis, and its unit.
        reference: Value of a dashed line, such as the level of chance; no line if not given.
        log_x: Whether the x axis is logarithmic, with ticks at the x values themselves.
        percent: Whether the estimates are shares, to be written as percentages.
        colors: Colour of each series by name; `colors_of` the series if not given.
    """
    colors = colors or colors_of(series)
    with style():
        figure, axes = new_figure(height=2.9 + legend_height(series))
        for row, (name, values) in enumerate(series.items()):
            x, y = list(values), [estimate.value for estimate in values.values()]
            axes.plot(x, y, color=colors[name], marker=MARKERS[row % len(MARKERS)], label=name)
            axes.vlines(x, [e.low for e in values.values()], [e.high for e in values.values()], color=colors[name])
        if reference is not None:
            axes.axhline(reference, **_DASHED)
        if log_x:
            axes.set_xscale("log", base=2)
            ticks = sorted({tick for values in series.values() for tick in values})
            if len(ticks) > 5:
                ticks = [tick for tick in ticks if math.log2(tick).is_integer()]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        if percent:
            axes.yaxis.set_major_formatter(_PERCENT)
        axes.set(xlabel=x_label, ylabel=y_label)
        draw_legend(figure, axes, series)
    return figure


def curves(
    series: Mapping[str, Sequence[Mapping[int, float]]],
    *,
    x_label: str = "step",
    y_label: str = "",
    reference: float | None = None,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a curve per series: the mean over seeds at each step, in a band from the lowest seed to the highest.

    Args:
        series: One mapping from step to value per seed, for each series by name. Only steps that all seeds have are
            drawn.
        x_label: Quantity on the x axis, and its unit.
        y_label: Quantity on the y axis, and its unit.
        reference: Value of a dashed line; no line if not given.
        colors: Colour of each series by name; `colors_of` the series if not given.
    """
    colors = colors or colors_of(series)
    with style():
        figure, axes = new_figure(height=2.9 + legend_height(series))
        for name, seeds in series.items():
            steps = sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []
            values = np.array([[seed[step] for step in steps] for seed in seeds]).reshape(len(seeds), len(steps))
            if steps:
                axes.plot(steps, values.mean(0), color=colors[name], label=name)
                axes.fill_between(steps, values.min(0), values.max(0), color=colors[name], alpha=0.18, linewidth=0)
        if reference is not None:
            axes.axhline(reference, **_DASHED)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set(xlabel=x_label, ylabel=y_label)
        draw_legend(figure, axes, series)
    return figure


def calibration_curves(
    series: Mapping[str, Sequence[tuple[float, Estimate, int]]], *, colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw accuracy with its interval against confidence by bin, and the number of pairs in each bin below.

    Args:
        series: (confidence from 0.5 to 1, accuracy, number of pairs) of each bin with pairs, for each series by name.
        colors: Colour of each series by name; `colors_of` the series if not given.
    """
    colors = colors or colors_of(series)
    with style():
        figure = Figure(figsize=(WIDTH, 3.6 + legend_height(series)), layout="constrained")
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        for row, (name, bins) in enumerate(series.items()):
            confidence, num = ([bin_[i] for bin_ in bins] for i in (0, 2))
            accuracy = [bin_[1] for bin_ in bins]
            values, low, high = ([estimate[i] for estimate in accuracy] for i in range(3))
            axes.plot(confidence, values, color=colors[name], marker=MARKERS[row % len(MARKERS)], label=name)
            axes.vlines(confidence, low, high, color=colors[name], alpha=0.6)
            counts.plot(confidence, num, color=colors[name], marker=MARKERS[row % len(MARKERS)], markersize=3)
        axes.plot([0.5, 1], [0.5, 1], **_DASHED)
        axes.set(ylabel="accuracy", ylim=(-0.03, 1.03))
        counts.set(xlabel="confidence, sigmoid of |margin|", ylabel="pairs", ylim=(0, None))
        counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        for axis in (axes.yaxis, counts.xaxis):
            axis.set_major_formatter(_PERCENT)
        draw_legend(figure, axes, series)
    return figure


def scatter_plots(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "",
    y_label: str = "",
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a scatter plot per series, one below the other, each with its own y axis.

    Args:
        series: Points (x, y), for each series by name.
        x_label: Quantity on the x axis, and its unit.
        y_label: Quantity on the y axes, and its unit.
        colors: Colour of each series by name; `colors_of` the series if not given.
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
    """Draw a histogram of margins per series, one below the other, each in its own unit; paler where the call is wrong.

    Args:
        series: Finite values, for each series by name.
        x_label: Quantity on the x axis, and its unit.
        num_bins: Number of bins over the whole axis; 0 is always the edge between two bins.
        colors: Colour of each series by name; `colors_of` the series if not given.
    """
    colors = colors or colors_of(series)
    with style():
        figure, grid = new_figure(height=0.7 + 1.15 * len(series), rows=len(series))
        for axes, (name, values) in zip(np.atleast_1d(grid), series.items(), strict=True):
            end = max((abs(value) for value in values), default=0.0) or 1.0
            edges = np.linspace(-end, end, 2 * (num_bins // 2) + 1)
            counts, _ = np.histogram(list(values), edges)
            centres = (edges[1:] + edges[:-1]) / 2
            for side, alpha, label in ((centres < 0, 0.4, "called wrong"), (centres > 0, 0.9, "called right")):
                width = np.diff(edges)[side] * 0.9
                axes.bar(centres[side], counts[side], width, color=colors[name], alpha=alpha, label=label)
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, handlelength=1.2)
            axes.axvline(0, color=MUTED, linewidth=1)
            axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
            axes.set(title=name, ylabel="pairs")
        np.atleast_1d(grid)[-1].set_xlabel(x_label)
    return figure


def _draw_bar_end(axes: Axes, y: float, estimate: Estimate, limits: tuple[float, float], text: str) -> None:
    ends = [bound for bound in estimate if not math.isnan(bound)]
    if not ends:
        axes.text(limits[0] + 0.01 * (limits[1] - limits[0]), y, "no value", va="center", color=MUTED, fontsize=8)
        return
    if not math.isnan(estimate.low):
        axes.hlines(y, estimate.low, estimate.high, color=INK, linewidth=1.2)
    axes.text(max(ends) + 0.012 * (limits[1] - limits[0]), y, text, va="center", color=MUTED, fontsize=8, clip_on=False)
