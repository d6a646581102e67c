"""A number for each video from comparisons: against a reference, the mean win rate in a group, or Bradley-Terry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from descore.pairwise.comparison import Comparison
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer

Rating = Literal["bradley_terry", "win_rate"]
"""What makes numbers of the comparisons in a group."""

Wins = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tournament:
    """The comparisons of the videos of one prompt with each other, each pair once and in both orders.

    Attributes:
        wins: `[N, N]` probability that the video of the row is better than that of the column, a tie as half a win; nan
            where the comparison failed, and on the diagonal.
        errors: Reason why a video has no comparison; None where it has one.
    """

    wins: Wins
    errors: tuple[str | None, ...]


def pairs_of_group(num: int) -> list[tuple[int, int]]:
    """Return the pairs of a group, each once.

    >>> pairs_of_group(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return list(combinations(range(num), 2))


def enter(num: int, comparisons: Sequence[Comparison]) -> Tournament:
    """Enter the comparisons of a group, in the order of `pairs_of_group`."""
    wins = np.full((num, num), math.nan)
    reasons: list[str | None] = [None] * num
    for (a, b), found in zip(pairs_of_group(num), comparisons, strict=True):
        if found.error is None:
            wins[a, b], wins[b, a] = found.p_a + found.p_tie / 2, found.p_b + found.p_tie / 2
        else:
            reasons[a], reasons[b] = reasons[a] or found.error, reasons[b] or found.error
    alone = np.isnan(wins).all(1)
    errors = (reason or "there is no other video to compare it with" for reason in reasons)
    return Tournament(wins, tuple(error if out else None for error, out in zip(errors, alone, strict=True)))


def win_rates(wins: Wins) -> Wins:
    """Return the mean win rate of each video over the others that it was compared with, `[N]`; nan for none.

    >>> win_rates(np.array([[np.nan, 0.9, 0.7], [0.1, np.nan, np.nan], [0.3, np.nan, np.nan]]))
    array([0.8, 0.1, 0.3])
    """
    known = ~np.isnan(wins)
    counts = known.sum(1)
    rates: Wins = np.where(counts, np.nansum(wins, 1) / np.maximum(counts, 1), math.nan)
    return rates


def bradley_terry(wins: Wins, *, ridge: float = 0.01) -> Wins:
    """Fit the strengths of Bradley and Terry (1952) to win rates: `wins[i, j]` is near `sigmoid(s_i - s_j)`.

    The minimum of `-sum wins[i, j] log sigmoid(s_i - s_j) + ridge / 2 * |s|^2`. Their mean is 0.

    Args:
        wins: [N, N] win rates; nan where two videos were not compared.
        ridge: Keeps strengths finite where a video always wins.

    Returns:
        [N]; nan for a video that was compared with none.

    Three wins in four are a difference of log 3:

    >>> strengths = bradley_terry(np.array([[np.nan, 0.75], [0.25, np.nan]]), ridge=0.0)
    >>> round(float(strengths[0] - strengths[1]), 4), round(math.log(3), 4)
    (1.0986, 1.0986)
    """
    weights, alone = np.nan_to_num(wins), np.isnan(wins).all(1)

    def loss(strengths: Wins) -> tuple[float, Wins]:
        margins = strengths[:, None] - strengths[None]
        missed = weights * expit(-margins)
        value = (weights * np.logaddexp(0, -margins)).sum() + ridge / 2 * (strengths**2).sum()
        return float(value), missed.sum(0) - missed.sum(1) + ridge * strengths

    found = minimize(loss, np.zeros(len(wins)), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}).x
    centred: Wins = np.where(alone, math.nan, found - found[~alone].mean() if not alone.all() else found)
    return centred


def rate_against(comparisons: Sequence[Comparison]) -> list[Score]:
    """Return the score of each video that was compared, as A, with a reference: the probability that it is better.

    >>> [score.reward for score in rate_against([Comparison(0.5, 0.2, 0.3)])]
    [0.6]
    """
    return [Score(found.p_a + found.p_tie / 2, error=found.error) for found in comparisons]


def rate_group(tournament: Tournament, by: Rating = "bradley_terry") -> list[Score]:
    """Return the score of each video of a group: its strength or its win rate."""
    rates = bradley_terry(tournament.wins) if by == "bradley_terry" else win_rates(tournament.wins)
    return [Score(float(rate), error=error) for rate, error in zip(rates, tournament.errors, strict=True)]


def compare_group(scorer: Scorer, videos: Sequence[Any], prompt: str, **options: Any) -> Iterator[Comparison]:
    """Compare each two videos of one prompt, and yield the records in the order of `pairs_of_group`.

    Args:
        scorer: Scorer of a model that compares two videos.
        videos: Videos of any kinds, as for `Scorer.compare`.
        prompt: Their prompt.
        **options: Options of `Scorer.compare`.
    """
    pairs = pairs_of_group(len(videos))
    return scorer.stream_comparisons([videos[a] for a, _ in pairs], [videos[b] for _, b in pairs], prompt, **options)
