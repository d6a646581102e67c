"""Rollout rewards: rules that grade one sampled thought, and a rubric that sums them with weights."""

from descore.rewards.rubric import NEED_SCORES, OF_ONE_VIDEO, PUBLISHED_WEIGHTS, RULES, RolloutReward, Rubric
from descore.rewards.rules import (
    Verdict,
    agreement_reward,
    consistency_reward,
    cosine_reward,
    format_reward,
    length_reward,
    quality_reward,
    repetition_reward,
    verdict_reward,
)

__all__ = [
    "NEED_SCORES",
    "OF_ONE_VIDEO",
    "PUBLISHED_WEIGHTS",
    "RULES",
    "RolloutReward",
    "Rubric",
    "Verdict",
    "agreement_reward",
    "consistency_reward",
    "cosine_reward",
    "format_reward",
    "length_reward",
    "quality_reward",
    "repetition_reward",
    "verdict_reward",
]
