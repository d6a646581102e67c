"""Whether the size of a margin means what it says, and whether rewards rank videos as people do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from descore.metrics.accuracy import margin_and_preference
from descore.metrics.columns import Column


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


def _bin(low: float, high: float, confidence: Tensor, right: Tensor) -> Bin:
    return Bin(low, high, confidence.mean().item(), right.mean().item(), len(right))
