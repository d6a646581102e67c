"""Policy-gradient algorithms by name: which advantage, which loss, which average over tokens, which clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

from descore.advantages import AdvantageVariant
from descore.losses.policy import MAX_LOG_RATIO, PolicyVariant
from descore.losses.token_weights import Average

AlgorithmName = Literal["descore", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "vl_norm", "stable_reinforce"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How the rollout rewards of groups become a policy loss.

    Attributes:
        advantage: How a thought is compared with its group; see `group_advantages`.
        policy: Policy loss of a token; see `policy_terms`.
        average: How tokens are averaged; see `token_weights`.
        clip_low: Lower clipping range: the ratio to the old probability is clipped at 1 - clip_low.
        clip_high: Upper clipping range: the ratio is clipped at 1 + clip_high.
        clip_dual: Upper bound of the ratio where the advantage is negative; inf for none.
        max_log_ratio: Bound of the log-ratio to the old probability before the ratio is clipped.
        outlier_stds: Advantages further from the mean of the batch, in standard deviations, are set to 0; inf for none.
        resample: Number of times that a group with equal rollout rewards is sampled again.
        length_exponent: Exponent of the vl_norm average.
    """

    advantage: AdvantageVariant = "grpo"
    policy: PolicyVariant = "grpo"
    average: Average = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = math.inf
    max_log_ratio: float = MAX_LOG_RATIO
    outlier_stds: float = math.inf
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
    # arXiv 2505.02835, which has one thought a video and the mean of the batch, where this has groups and their means:
    # the ratio within 1/1000 and 1000 before it is clipped, and advantages beyond three standard deviations left out.
    "stable_reinforce": Algorithm(advantage="dr_grpo", max_log_ratio=math.log(1000), outlier_stds=3.0),
})


@dataclass(frozen=True)
class AlgorithmOptions:
    """A policy-gradient algorithm by name, with values of one's own in place of its own.

    Attributes:
        name: Algorithm that sets everything that is not given here.
        advantage: How a thought is compared with its group.
        policy: Policy loss of a token.
        average: How tokens are averaged.
        clip_low: Lower clipping range: the ratio to the old probability is clipped at 1 - clip_low.
        clip_high: Upper clipping range: the ratio is clipped at 1 + clip_high.
        clip_dual: Upper bound of the ratio where the advantage is negative; .inf for none.
        max_log_ratio: Bound of the log-ratio to the old probability before the ratio is clipped, at most 20.
        outlier_stds: Advantages further from the mean of the batch, in standard deviations, are set to 0; .inf for
            none.
        resample: Number of times that a group with equal rollout rewards is sampled again.

    >>> AlgorithmOptions("grpo", clip_high=0.5).resolve().clip_high
    0.5
    >>> AlgorithmOptions("grpo", clip_high=0.5).resolve().average
    'sequence'
    """

    name: AlgorithmName = "descore"
    advantage: AdvantageVariant | None = None
    policy: PolicyVariant | None = None
    average: Average | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    clip_dual: float | None = None
    max_log_ratio: float | None = None
    outlier_stds: float | None = None
    resample: int | None = None

    def resolve(self) -> Algorithm:
        """Return the algorithm with the given values in place of its own."""
        given = {key: value for key, value in asdict(self).items() if key != "name" and value is not None}
        return replace(ALGORITHMS[self.name], **given)
