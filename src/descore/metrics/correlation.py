"""Rank correlation of rewards with mean opinion scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import kendalltau, spearmanr

from descore.metrics.columns import Column, float64_columns


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Rewards of videos against mean opinion scores.

    Attributes:
        spearman: Spearman's rho; nan unless both sides have two different numbers.
        kendall: Kendall's tau-b, which accounts for equal scores; nan likewise.
        num_videos: Videos in both.
        num_failed: Videos with a score of people and a nan reward, in neither.
        num_unusable: Videos without a score of people, in neither.
    """

    spearman: float
    kendall: float
    num_videos: int
    num_failed: int
    num_unusable: int


def rank_correlation(reward: Column, mos: Column) -> RankCorrelation:
    """Correlate the ranks of rewards with those of mean opinion scores.

    Args:
        reward: [N] of one dimension; nan where a video failed.
        mos: [N] mean opinion score of the same dimension; nan where there is none.

    Raises:
        ValueError: If the two are not [N] of the same N.
    """
    reward, mos = float64_columns(reward=reward, mos=mos)
    rated, scored = ~mos.isnan(), ~reward.isnan()
    both = rated & scored
    reward, mos = reward[both], mos[both]
    ranked = bool((reward[1:] != reward[:-1]).any() and (mos[1:] != mos[:-1]).any())
    return RankCorrelation(
        spearman=float(spearmanr(reward.numpy(), mos.numpy()).statistic) if ranked else math.nan,
        kendall=float(kendalltau(reward.numpy(), mos.numpy()).statistic) if ranked else math.nan,
        num_videos=len(reward),
        num_failed=int((rated & ~scored).sum()),
        num_unusable=int((~rated).sum()),
    )
