"""Policy-gradient algorithms by name: which advantage, which loss, which average over tokens, which clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from descore.advantages import AdvantageVariant
from descore.losses.policy import PolicyVariant
from descore.losses.token_weights import Average

AlgorithmName = Literal["descore", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "vl_norm"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What turns the rollout rewards of groups into a policy loss.

    Attributes:
        advantage: How a thought is compared with its group; see `group_advantages`.
        policy: The loss of a token; see `policy_terms`.
        average: How tokens are averaged; see `token_weights`.
        clip_low: How far below 1 the ratio to the old probability may fall.
        clip_high: How far above 1 it may rise.
        clip_dual: Bound of the ratio where the advantage is negative; inf for none.
        resample: How often a group without spread is sampled again.
        length_exponent: The exponent of the vl_norm average.
    """

    advantage: AdvantageVariant = "grpo"
    policy: PolicyVariant = "grpo"
    average: Average = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = math.inf
    resample: int = 0
    length_exponent: float = 1.0


ALGORITHMS: Mapping[AlgorithmName, Algorithm] = MappingProxyType({
    # arXiv 2605.05922: GRPO with a higher upper bound, a dual clip and the mean over all tokens.
    "descore": Algorithm(clip_high=0.3, clip_dual=3.0),
    # arXiv 2402.03300: mean per thought, then over thoughts.
    "grpo": Algorithm(average="sequence"),
    # arXiv 2503.20783: neither the standard deviation nor the length of a thought in a denominator.
    "dr_grpo": Algorithm(advantage="dr_grpo", average="constant"),
    # arXiv 2503.14476, without its overlong penalty, which a rollout reward of your own can be.
    "dapo": Algorithm(clip_high=0.28, resample=3),
    # arXiv 2507.18071, the token form: the ratio of a whole thought.
    "gspo": Algorithm(policy="gspo", average="sequence", clip_low=3e-4, clip_high=4e-4),
    # arXiv 2506.13585, without a lower bound; the upper one is that of arXiv 2510.13786.
    "cispo": Algorithm(policy="cispo", clip_low=1.0, clip_high=4.0),
    # arXiv 2402.14740: the mean of the others is the baseline, a thought is one action.
    "rloo": Algorithm(advantage="rloo", average="constant"),
    # arXiv 2509.07558: each thought weighed by its length, for the least variance.
    "vl_norm": Algorithm(average="vl_norm"),
})
