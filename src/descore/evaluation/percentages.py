"""Shares as percentages: the one format of accuracies, in what commands print and on pages."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float | None, *, sign: bool = False) -> str:
    """Format a share as a percentage.

    Args:
        share: Share from 0 to 1, or a difference of two shares; None gives a dash.
        sign: Whether to write a plus sign before a positive number, as for a difference.

    >>> percent(0.8125), percent(0.02, sign=True), percent(None)
    ('81.2 %', '+2.0 %', '-')
    """
    if share is None:
        return "-"
    return f"{100 * share:+.1f} %" if sign else f"{100 * share:.1f} %"


def percents(interval: Sequence[float | None], *, sign: bool = False) -> str:
    """Format an interval of shares as percentages.

    Args:
        interval: Lower and upper end; None for either gives an empty text.
        sign: Whether to write a plus sign before a positive number, as for a difference.

    >>> percents((0.5, 0.75)), percents((None, None))
    ('(50.0 to 75.0)', '')
    """
    low, high = interval
    if low is None or high is None:
        return ""
    form = "+.1f" if sign else ".1f"
    return f"({100 * low:{form}} to {100 * high:{form}})"
