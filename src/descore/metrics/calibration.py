"""Calibration: whether sigmoid(margin) is the probability that people agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from descore.metrics.accuracy import margin_and_preference
from descore.metrics.columns import Column


@dataclass(frozen=True, slots=True)
class Bin:
    """Decided pairs whose confidence lies in one interval.

    Attributes:
        low: Lower bound of the confidence, inclusive.
        high: Upper bound of the confidence, exclusive unless it is 1.
        confidence: Mean of sigmoid(|margin|), the Bradley-Terry probability that the video with the higher reward is
            preferred; nan if the bin is empty.
        accuracy: Share of pairs predicted right, where a margin of 0 counts as half right; nan if the bin is empty.
        num: Number of pairs.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    num: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Comparison of the confidence of a model with its accuracy.

    Attributes:
        expected_error: Expected calibration error: mean over pairs of |confidence - accuracy| of their bin; nan over no
            pairs.
        bins: Bins of equal width over the confidences from 1/2 to 1, empty bins included.
        num_pairs: Number of decided, scored pairs.
    """

    expected_error: float
    bins: tuple[Bin, ...]
    num_pairs: int


def calibration(margin: Column, preference: Column, num_bins: int = 10) -> Calibration:
    """Compare sigmoid(margin), the predicted probability that A is preferred, with how often people prefer A.

    The comparison is folded onto the side with the higher reward: sigmoid(|margin|) is compared with how often the sign
    of the margin is right. So swapping A and B has no effect. The expected calibration error is that of Guo et al.
    (arXiv 1706.04599, eq. 3).

    Args:
        margin: [N] reward of A minus reward of B for each pair; pairs with nan do not count.
        preference: [N] +1 where A is preferred, -1 where B is; ties (0) and pairs with nan do not count.
        num_bins: Number of bins of equal width between 1/2 and 1.

    Raises:
        ValueError: If the columns are not both [N], a preference is another number, or num_bins is below 1.

    Two pairs with margin log 3, so confidence 3/4, of which one is right:

    >>> margin = torch.tensor([3.0, 3.0]).log()
    >>> round(calibration(margin, [1, -1]).expected_error, 3)
    0.25
    """
    if num_bins < 1:
        raise ValueError(f"expected at least one bin, got {num_bins}; 10 is usual")
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


def _bin(low: float, high: float, confidence: Tensor, right: Tensor) -> Bin:
    return Bin(low, high, confidence.mean().item(), right.mean().item(), len(right))
