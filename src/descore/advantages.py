"""Advantages of a group of thoughts: how much better each did than its siblings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

AdvantageVariant = Literal["grpo", "dr_grpo", "rloo"]

EPSILON = 1e-6
TIED = 1e-8


def group_advantages(rewards: Tensor, *, variant: AdvantageVariant = "grpo") -> Tensor:
    """Compare every thought with the thoughts of its own group, which is one row.

        grpo     (R_i - mean) / (std + 1e-6), with the sample standard deviation (arXiv 2402.03300)
        dr_grpo  R_i - mean, so that easy and hard videos are not weighted up (arXiv 2503.20783)
        rloo     R_i - mean of the others (arXiv 2402.14740)

    A failed rollout (nan) gets 0 and leaves its group: its siblings get what they would get without it. A group without
    spread gets exactly 0, and so does a group of one. Computed in float64.

    Args:
        rewards: [G, n] rollout rewards, nan where one failed. Prefer float64: rewards that are equal but were summed in
            another order differ by 6e-8 in float32, which counts as spread.
        variant: How thoughts are compared.

    Returns:
        [G, n] advantages in the precision of the rewards, at least float32.

    Raises:
        ValueError: If the rewards are not [G, n], or there is no variant of that name.
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


def has_spread(rewards: Tensor) -> Tensor:
    """Say which groups have something to learn from: rewards more than 1e-8 apart, failed ones (nan) left out.

    Args:
        rewards: [G, n] rollout rewards, nan where one failed.

    Returns:
        [G] bool.
    """
    exact = rewards.double()
    failed = exact.isnan()
    highest = exact.masked_fill(failed, -torch.inf).amax(dim=1)
    lowest = exact.masked_fill(failed, torch.inf).amin(dim=1)
    return highest - lowest > TIED
