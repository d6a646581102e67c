"""How the tables of commands write numbers."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float | None, *, sign: bool = False) -> str:
    """Write a share in percent, with its sign for a difference; a dash where there is none.

    >>> percent(0.8125), percent(0.02, sign=True), percent(None)
    ('81.2 %', '+2.0 %', '-')
    """
    if share is None:
        return "-"
    return f"{100 * share:+.1f} %" if sign else f"{100 * share:.1f} %"


def percents(interval: Sequence[float | None], *, sign: bool = False) -> str:
    """Write an interval of shares; nothing where there is none.

    >>> percents((0.5, 0.75)), percents((None, None))
    ('(50.0 to 75.0)', '')
    """
    low, high = interval
    if low is None or high is None:
        return ""
    form = "+.1f" if sign else ".1f"
    return f"({100 * low:{form}} to {100 * high:{form}})"
