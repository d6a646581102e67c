"""Rewards of videos with their own prompt against those with a swapped one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from descore.metrics.columns import Column, float64_columns
from descore.metrics.correlation import spearman
from descore.metrics.groups import NEGLIGIBLE
from descore.metrics.intervals import bootstrap_interval


@dataclass(frozen=True, slots=True)
class PromptSwap:
    """Comparison of rewards with the own and with a swapped prompt; every number is nan without a video.

    Attributes:
        fall: Mean of the reward with the own prompt minus that with the swapped one.
        fall_low: Lower bound of the 95 % bootstrap interval of `fall` over prompts.
        fall_high: Upper bound of the 95 % bootstrap interval of `fall` over prompts.
        relative_fall: `fall` over the standard deviation of the rewards with the own prompt; nan if they are all equal.
        own_above: Share of the videos whose reward is larger with the own prompt, those with equal rewards as a half.
        own_above_low: Lower bound of the 95 % bootstrap interval of `own_above` over prompts.
        own_above_high: Upper bound of the 95 % bootstrap interval of `own_above` over prompts.
        unmoved: Share of the videos whose reward changes by at most 1 % of that standard deviation.
        spearman: Spearman's rho of the rewards with the own prompt and with the swapped one.
        num_videos: Number of videos with both rewards.
    """

    fall: float
    fall_low: float
    fall_high: float
    relative_fall: float
    own_above: float
    own_above_low: float
    own_above_high: float
    unmoved: float
    spearman: float
    num_videos: int


def prompt_swap(own: Column, swapped: Column, prompts: Sequence[Hashable]) -> PromptSwap:
    """Compare the rewards of videos with their own prompt and with a swapped one.

    Args:
        own: [N] reward of each video with its own prompt; nan where it failed.
        swapped: [N] reward of each video with a swapped prompt; nan where it failed or there is none.
        prompts: N own prompts: the bootstrap draws whole prompts.

    Raises:
        ValueError: If the columns are not both [N], or there are not N prompts.

    >>> found = prompt_swap([2.0, 4.0, 6.0, 8.0], [1.0, 4.0, 5.0, 8.0], ["a", "a", "b", "b"])
    >>> found.fall, found.own_above, found.unmoved
    (0.5, 0.75, 0.5)
    """
    own, swapped = float64_columns(own=own, swapped=swapped)
    fall = own - swapped
    known = ~fall.isnan()
    above = ((fall.sign() + 1) / 2).where(known, math.nan)
    spread = float((own[known] - own[known][:1]).std()) if int(known.sum()) > 1 else math.nan
    fall_low, fall_high = bootstrap_interval(fall, prompts)
    above_low, above_high = bootstrap_interval(above, prompts)
    mean = float(fall[known].mean())
    return PromptSwap(
        fall=mean,
        fall_low=fall_low,
        fall_high=fall_high,
        relative_fall=mean / spread if spread else math.nan,
        own_above=float(above[known].mean()),
        own_above_low=above_low,
        own_above_high=above_high,
        unmoved=float((fall[known].abs() <= NEGLIGIBLE * spread).double().mean())
        if not math.isnan(spread)
        else math.nan,
        spearman=spearman(own[known], swapped[known]),
        num_videos=int(known.sum()),
    )
