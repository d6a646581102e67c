"""The comparison record: what is known of two videos that a model compared in both orders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from descore.inputs.choice import OUTCOMES

RAREST = 1e-6
"""Probability that a margin takes for 0, so that it is finite."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the model says of two videos in one order.

    Attributes:
        p_a: Probability that video A is better: the mean over the thoughts that have a choice; nan if none has.
        p_tie: Probability of a tie.
        p_b: Probability that video B is better.
        thoughts: Text of each thought, which calls the video that comes first in this order the first; empty if
            compared without a thought.
        num_thought_tokens: Length of each thought in tokens.
        errors: Reason why a thought has no choice; None where it has one.
    """

    p_a: float
    p_tie: float
    p_b: float
    thoughts: tuple[str, ...] = ()
    num_thought_tokens: tuple[int, ...] = ()
    errors: tuple[str | None, ...] = ()

    @property
    def verdict(self) -> str | None:
        """The most probable outcome, "A", "tie" or "B"; None if there is none."""
        return verdict_of(self.p_a, self.p_tie, self.p_b)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison record of two videos, the same from Python, from the command line and from the server.

    The videos are shown in both orders, A first and B first, and the probabilities are the means over the two.

    Attributes:
        p_a: Probability that video A is better; nan if the comparison failed.
        p_tie: Probability of a tie; 0 for a model that always chooses.
        p_b: Probability that video B is better.
        verdict: The most probable outcome, "A", "tie" or "B"; None if the comparison failed.
        order_disagreement: Share of the probability that moves when the order changes, from 0 to 1: half the sum of the
            absolute differences of the probabilities in the two orders.
        verdict_changes: Whether the verdicts in the two orders differ; None if the comparison failed.
        orders: What the model says with A first, and with B first; empty if the videos could not be read.
        error: Reason why there is no verdict; None if there is one.

    >>> found = compare_orders(Order(0.7, 0.1, 0.2), Order(0.3, 0.1, 0.6))
    >>> found.p_a, round(found.order_disagreement, 3), found.verdict, found.verdict_changes
    (0.5, 0.4, 'A', True)
    """

    p_a: float = math.nan
    p_tie: float = math.nan
    p_b: float = math.nan
    verdict: str | None = None
    order_disagreement: float | None = None
    verdict_changes: bool | None = None
    orders: tuple[Order, ...] = ()
    error: str | None = None

    @property
    def margin(self) -> float:
        """Log-odds that A is better, a tie as half of each outcome, so that its sigmoid is a probability.

        It lies within 13.8 of 0, the log-odds of one in a million; nan if the comparison failed.

        >>> round(Comparison(0.7, 0.1, 0.2).margin, 4), round(math.log(0.75 / 0.25), 4)
        (1.0986, 1.0986)
        """
        wins = self.p_a + self.p_tie / 2
        if math.isnan(wins):
            return math.nan
        wins = min(max(wins, RAREST), 1 - RAREST)
        return math.log(wins) - math.log1p(-wins)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain values for JSON: None (null) for nan."""
        orders = [_plain(asdict(order)) for order in self.orders]
        return _plain(asdict(self)) | {"orders": orders}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Comparison:
        """Return the record that `to_json` gave.

        >>> Comparison.from_json(Comparison(error="a.mp4: no such file").to_json()).error
        'a.mp4: no such file'
        """
        known = {name: value for name, value in _read(values).items() if name in cls.__slots__}
        return cls(**known | {"orders": tuple(Order(**_read(order)) for order in values.get("orders", ()))})


def compare_orders(a_first: Order, b_first: Order) -> Comparison:
    """Return the comparison of two videos from what the model says with A first and with B first."""
    orders = (a_first, b_first)
    for name, order in zip(("A first", "B first"), orders, strict=True):
        if order.verdict is None:
            reason = next((error for error in order.errors if error), "the probabilities are not finite numbers")
            number = f"none of {len(order.errors)} thoughts has a choice; the first one: " * (len(order.errors) > 1)
            return Comparison(orders=orders, error=f"with {name}, {number}{reason}")
    p_a, p_tie, p_b = (sum(both) / 2 for both in zip(*map(_values, orders), strict=True))
    moved = sum(abs(one - other) for one, other in zip(*map(_values, orders), strict=True)) / 2
    changes = a_first.verdict != b_first.verdict
    return Comparison(p_a, p_tie, p_b, verdict_of(p_a, p_tie, p_b), moved, changes, orders)


def verdict_of(p_a: float, p_tie: float, p_b: float) -> str | None:
    """Return the most probable outcome, of equal ones the first of A, tie and B; None for nan.

    >>> verdict_of(0.2, 0.3, 0.5)
    'B'
    """
    values = (p_a, p_tie, p_b)
    return OUTCOMES[values.index(max(values))] if all(map(math.isfinite, values)) else None


def _values(order: Order) -> Sequence[float]:
    return (order.p_a, order.p_tie, order.p_b)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in values.items()}


def _read(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with nan for a probability that is null, and tuples for lists."""
    missing = {name: math.nan for name in ("p_a", "p_tie", "p_b") if values.get(name) is None}
    return {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()} | missing
