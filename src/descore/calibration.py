"""Whether the size of a margin means what it says, and whether rewards rank videos as people do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from descore.agreement import margin_and_preference
from descore.columns import Column, float64_columns


@dataclass(frozen=True, slots=True)
class Bin:
    """Decided pairs of about the same confidence.

    Attributes:
        low: Lower bound of their confidence, included.
        high: Upper bound, left out unless it is 1.
        confidence: Mean of sigmoid(|margin|), the probability of Bradley-Terry for the higher reward.
        accuracy: Share of them called right; a margin of 0 is half right, as its confidence of 1/2 says.
        num: How many they are; over none, confidence and accuracy are nan.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    num: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether sigmoid(margin) is the rate at which people agree.

    Attributes:
        expected_error: Mean over pairs of |confidence - accuracy| of their bin (ECE); nan over no pairs.
        bins: Of equal width over the confidences 1/2 to 1, empty ones too.
        num_pairs: Decided, scored pairs.
    """

    expected_error: float
    bins: tuple[Bin, ...]
    num_pairs: int


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


def calibration(margin: Column, preference: Column, num_bins: int = 10) -> Calibration:
    """Compare sigmoid(margin), as the probability that A is preferred, with how often people agree.

    Folded to the side that the reward prefers: sigmoid(|margin|) against whether the sign is right. So swapping A and B
    changes nothing, and a model that puts 0.7 on either side is measured at 0.7.

    Args:
        margin: [N] as in `preference_accuracy`.
        preference: [N] as in `preference_accuracy`; ties do not count.
        num_bins: Of equal width between 1/2 and 1.

    Raises:
        ValueError: As `preference_accuracy`, or if there are no bins.
    """
    if num_bins < 1:
        raise ValueError(f"expected at least one bin, got {num_bins}; the usual number is 10")
    margin, preference = margin_and_preference(margin, preference)
    counts = ~margin.isnan() & (preference.abs() == 1)
    margin, preference = margin[counts], preference[counts]
    confidence, right = margin.abs().sigmoid(), (1 + margin.sign() * preference) / 2
    edges = torch.linspace(0.5, 1, num_bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1], right=True)
    bins = tuple(
        _bin(low, high, confidence[place == k], right[place == k])
        for k, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    )
    error = sum(abs(bin_.confidence - bin_.accuracy) * bin_.num for bin_ in bins if bin_.num)
    return Calibration(error / len(margin) if len(margin) else math.nan, bins, len(margin))


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


def _bin(low: float, high: float, confidence: Tensor, right: Tensor) -> Bin:
    return Bin(low, high, confidence.mean().item(), right.mean().item(), len(right))
