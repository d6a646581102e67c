"""Rank correlation of rewards with mean opinion scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from descore.metrics.columns import Column, float64_columns


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Rank correlation of the rewards of videos with their mean opinion scores.

    Attributes:
        spearman: Spearman's rho; nan if all rewards, or all opinion scores, are equal.
        kendall: Kendall's tau-b, which accounts for ties; nan if all rewards, or all opinion scores, are equal.
        num_videos: Number of videos that both correlations are over.
        num_failed: Number of videos with an opinion score whose reward is nan; they are left out.
        num_unusable: Number of videos without an opinion score; they are left out.
    """

    spearman: float
    kendall: float
    num_videos: int
    num_failed: int
    num_unusable: int


def rank_correlation(reward: Column, mos: Column) -> RankCorrelation:
    """Compute the rank correlation of rewards with mean opinion scores, in one reward dimension.

    Args:
        reward: [N] reward of each video; nan where it failed.
        mos: [N] mean opinion score of each video; nan where there is none.

    Raises:
        ValueError: If the columns are not both [N].

    >>> found = rank_correlation([0.1, 0.2, 0.9], [1.0, 3.0, 2.0])
    >>> round(found.spearman, 3), round(found.kendall, 3)
    (0.5, 0.333)
    """
    reward, mos = float64_columns(reward=reward, mos=mos)
    rated, scored = ~mos.isnan(), ~reward.isnan()
    both = rated & scored
    reward, mos = reward[both], mos[both]
    return RankCorrelation(
        spearman=spearman(reward, mos),
        kendall=float(kendalltau(reward.numpy(), mos.numpy()).statistic) if _vary(reward, mos) else math.nan,
        num_videos=len(reward),
        num_failed=int((rated & ~scored).sum()),
        num_unusable=int((~rated).sum()),
    )


def spearman(first: Tensor, second: Tensor) -> float:
    """Compute Spearman's rho of two columns without nan, [N] each; nan if all values of one are equal."""
    return float(spearmanr(first.numpy(), second.numpy()).statistic) if _vary(first, second) else math.nan


def _vary(*columns: Tensor) -> bool:
    return all(bool((column[1:] != column[:-1]).any()) for column in columns)
