"""Rewards within groups, such as the videos of one prompt: their spread, and their rank correlation with a quantity.

The advantage of group-relative policy optimisation (GRPO) is a reward minus the mean of its group, so only the
differences within a group train a generator.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from descore.metrics.columns import Column, float64_columns, number_keys
from descore.metrics.correlation import spearman
from descore.metrics.intervals import bootstrap_interval

NEGLIGIBLE = 0.01
"""Share of the standard deviation of all rewards up to which a difference counts as none."""


@dataclass(frozen=True, slots=True)
class GroupSpread:
    """Spread of rewards within groups, over the groups of at least two rewards.

    Attributes:
        within: Standard deviation within a group, pooled: the square root of the sum of squared deviations from the
            group's mean over the sum of (size - 1); nan without a group.
        total: Standard deviation of all these rewards; nan without a group.
        share: `within` over `total`: about 1 if the groups do not differ, 0 if the rewards of a group are equal; nan if
            all rewards are equal.
        flat: Share of the groups whose standard deviation is at most 1 % of `total`: they give no advantage.
        num_groups: Number of groups of at least two rewards.
        num_rewards: Number of rewards in them.
    """

    within: float
    total: float
    share: float
    flat: float
    num_groups: int
    num_rewards: int


@dataclass(frozen=True, slots=True)
class GroupCorrelation:
    """Rank correlation within groups.

    Attributes:
        spearman: Mean of Spearman's rho over the groups in which both columns vary; nan without one.
        low: Lower bound of the 95 % bootstrap interval over groups.
        high: Upper bound of the 95 % bootstrap interval over groups.
        num_groups: Number of groups in which both columns vary.
    """

    spearman: float
    low: float
    high: float
    num_groups: int


def group_spread(reward: Column, groups: Sequence[Hashable]) -> GroupSpread:
    """Compute the spread of rewards within groups.

    Args:
        reward: [N] rewards; nan is left out.
        groups: N keys, such as prompts: rewards with the same key are one group.

    Raises:
        ValueError: If the rewards are not [N], or there are not N keys.

    >>> group_spread([1.0, 3.0, 5.0, 5.0], ["a cat", "a cat", "a dog", "a dog"])  # doctest: +ELLIPSIS
    GroupSpread(within=1.0, total=1.914..., share=0.522..., flat=0.5, num_groups=2, num_rewards=4)
    """
    (reward,) = float64_columns(reward=reward)
    found = [reward[rows] for rows in _members(groups, ~reward.isnan()) if len(rows) > 1]
    if not found:
        return GroupSpread(math.nan, math.nan, math.nan, math.nan, 0, 0)
    variances = torch.stack([_variance(group) for group in found])
    freedom = torch.tensor([len(group) - 1.0 for group in found], dtype=torch.float64)
    within, total = (
        float(((variances * freedom).sum() / freedom.sum()).sqrt()),
        float(_variance(torch.cat(found)).sqrt()),
    )
    return GroupSpread(
        within=within,
        total=total,
        share=within / total if total else math.nan,
        flat=float((variances.sqrt() <= NEGLIGIBLE * total).double().mean()),
        num_groups=len(found),
        num_rewards=sum(map(len, found)),
    )


def group_correlation(reward: Column, quantity: Column, groups: Sequence[Hashable]) -> GroupCorrelation:
    """Compute the rank correlation of rewards with a quantity, such as the length of the thought, within groups.

    Args:
        reward: [N] rewards; nan is left out.
        quantity: [N] quantity; nan is left out.
        groups: N keys, such as prompts: rows with the same key are one group.

    Raises:
        ValueError: If the columns are not both [N], or there are not N keys.

    >>> found = group_correlation([1.0, 2.0, 7.0, 8.0, 9.0], [10, 20, 10, 30, 20], ["a", "a", "b", "b", "b"])
    >>> round(found.spearman, 3)  # 1 in a, 0.5 in b
    0.75
    """
    reward, quantity = float64_columns(reward=reward, quantity=quantity)
    members = _members(groups, ~(reward.isnan() | quantity.isnan()))
    each = [rho for rows in members if not math.isnan(rho := spearman(reward[rows], quantity[rows]))]
    return GroupCorrelation(fmean(each) if each else math.nan, *bootstrap_interval(each), len(each))


def _members(groups: Sequence[Hashable], known: Tensor) -> list[Tensor]:
    """Return the rows of each group, without the rows that are not known."""
    keys, places = number_keys("groups", groups, len(known))
    rows = known.nonzero()[:, 0]
    ordered = rows[places[rows].argsort(stable=True)]
    return list(torch.tensor_split(ordered, torch.bincount(places[rows], minlength=len(keys)).cumsum(0)[:-1]))


def _variance(values: Tensor) -> Tensor:
    return (values - values[0]).var()  # equal values have exactly none, whatever their mean rounds to
