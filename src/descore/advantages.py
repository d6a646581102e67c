"""Advantages: how much better each thought of a group did than its siblings."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

AdvantageVariant = Literal["grpo", "dr_grpo", "rloo"]

EPSILON = 1e-6
"""Added to the standard deviation, so that a group with almost equal rewards gets finite advantages."""

MAX_TIED_SPREAD = 1e-8
"""Largest difference between the rewards of a group that still count as equal."""


def group_advantages(rewards: Tensor, *, variant: AdvantageVariant = "grpo") -> Tensor:
    """Compute the advantage of each thought over the other thoughts of its group; each row is one group.

        grpo     (R_i - mean) / (std + 1e-6), with the sample standard deviation (arXiv 2402.03300)
        dr_grpo  R_i - mean, which gives no extra weight to very easy and very hard videos (arXiv 2503.20783)
        rloo     R_i - mean of the others (arXiv 2402.14740)

    A failed rollout (nan) gets advantage 0, and its siblings get the advantages that they would have without it. A
    group whose rewards are all equal gets exactly 0, and so does a group with one thought. Computed in float64.

    Args:
        rewards: [G, n] rollout rewards, nan where a rollout failed. Prefer float64: equal rewards whose terms were
            summed in different orders can differ by 6e-8 in float32, which counts as spread.
        variant: Formula of the advantage: "grpo", "dr_grpo" or "rloo".

    Returns:
        [G, n] advantages in the precision of the rewards, at least float32.

    Raises:
        ValueError: If the rewards are not [G, n], or the variant is unknown.

    >>> group_advantages(torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.5, 0.5]]), variant="dr_grpo")
    tensor([[-1.,  1.,  0.],
            [ 0.,  0.,  0.]])
    """
    if rewards.ndim != 2:
        raise ValueError(f"expected rewards [G, n], one row per group, got shape {list(rewards.shape)}")
    exact = rewards.double()
    known = ~exact.isnan()
    num_known = known.sum(dim=1, keepdim=True).clamp(min=1)
    mean = exact.nansum(dim=1, keepdim=True) / num_known
    centred = torch.where(known, exact - mean, 0.0)
    num_others = (num_known - 1).clamp(min=1)
    if variant == "grpo":
        advantages = centred / ((centred.square().sum(dim=1, keepdim=True) / num_others).sqrt() + EPSILON)
    elif variant == "dr_grpo":
        advantages = centred
    elif variant == "rloo":
        advantages = centred * num_known / num_others
    else:
        raise ValueError(f"expected a variant among grpo, dr_grpo, rloo; got {variant!r}")
    advantages = torch.where(has_spread(rewards)[:, None], advantages, 0.0)
    return advantages.to(torch.promote_types(rewards.dtype, torch.float32))


def without_outliers(advantages: Tensor, stds: float) -> Tensor:
    """Set advantages to 0 that are far from the mean of all of them (the filter of StableReinforce, arXiv 2505.02835).

    Args:
        advantages: [G, n] advantages of a batch.
        stds: Largest distance from the mean that is kept, in standard deviations; inf keeps all.

    Returns:
        [G, n] advantages.

    Raises:
        ValueError: If the distance is not above 0.

    >>> without_outliers(torch.tensor([[1.0, -1.0, 1.0, -1.0, 8.0]]), stds=1.5)  # mean 1.6, deviation 3.7
    tensor([[ 1., -1.,  1., -1.,  0.]])
    """
    if not stds > 0:
        raise ValueError(f"expected outlier_stds above 0, got {stds}; pass inf to keep all advantages")
    exact = advantages.double()
    if exact.numel() < 2 or math.isinf(stds):
        return advantages
    return torch.where((exact - exact.mean()).abs() > stds * exact.std(), 0.0, advantages)


def has_spread(rewards: Tensor) -> Tensor:
    """Return which groups have rewards that differ by more than 1e-8, and so have advantages other than 0.

    Args:
        rewards: [G, n] rollout rewards, nan where a rollout failed; failed rollouts are ignored.

    Returns:
        [G] bool, true for a group with spread.

    >>> has_spread(torch.tensor([[1.0, 3.0], [0.5, 0.5]]))
    tensor([ True, False])
    """
    exact = rewards.double()
    failed = exact.isnan()
    highest = exact.masked_fill(failed, -torch.inf).amax(dim=1)
    lowest = exact.masked_fill(failed, torch.inf).amin(dim=1)
    return highest - lowest > MAX_TIED_SPREAD
