"""Stage 2's objective: policy gradient on the thoughts, and a preference loss that keeps the head calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from descore.losses.policy import KLEstimator, kl_divergence, policy_terms
from descore.losses.preference import bradley_terry_loss
from descore.losses.token_weights import token_weights
from descore.objectives.algorithms import Algorithm
from descore.thinking.rollouts import Rollouts


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses of stage 2.

    Attributes:
        policy: Weight of the policy loss on the thoughts.
        kl: Weight of the KL divergence to the stage-1 model; 0 spares the forward of that model.
        calibration: Weight of the Bradley-Terry loss on the rewards of the sampled thoughts.
    """

    policy: float = 1.0
    kl: float = 1e-5
    calibration: float = 5e-3


@dataclass(frozen=True, slots=True)
class Shares:
    """Weight of each token and each decided preference in the losses of a mini-batch.

    Micro-batches sum their own terms, so that they add up to the loss of the mini-batch however it is split, over time
    or over ranks.
    """

    tokens: Tensor  # [V, n, T], 0 outside of the mini-batch
    preference: Tensor  # scalar


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of a micro-batch, scalars.

    Attributes:
        policy: Policy loss on the thoughts, without its weight.
        kl: KL divergence to the reference, without its weight; 0 without a reference.
        calibration: Bradley-Terry loss on the rewards of the thoughts, without its weight.
        total: Weighted sum of the three.
        part: Calibration loss with its weight: the part of `total` whose gradient norm is logged by itself.
        metrics: Detached means over the tokens of the micro-batch.
    """

    policy: Tensor
    kl: Tensor
    calibration: Tensor
    total: Tensor
    part: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class DualObjective:
    """Policy gradient, KL to the reference, and a Bradley-Terry loss that keeps the head calibrated.

    Attributes:
        algorithm: Policy loss and its average.
        max_tokens: Length limit of a thought in tokens, for averages that need it.
        kl_estimator: Estimator of the KL divergence.
        weights: Weights of the three losses.
    """

    algorithm: Algorithm
    max_tokens: int
    kl_estimator: KLEstimator = "low_var"
    weights: LossWeights = field(default_factory=LossWeights)

    def shares(
        self, rollouts: Rollouts, pairs: Sequence[int], mean_over_ranks: Callable[[Tensor], Tensor] = lambda mean: mean
    ) -> Shares:
        """Compute the weights of the tokens and preferences of a mini-batch.

        Args:
            rollouts: Rollout batch.
            pairs: Indices of the pairs of the mini-batch.
            mean_over_ranks: Averages a scalar over the ranks of a run.
        """
        videos, tokens = rollouts.videos(pairs), torch.zeros_like(rollouts.old_logprobs)
        mask = rollouts.mask[videos]
        weights = token_weights(
            mask.flatten(0, 1),
            average=self.algorithm.average,
            max_tokens=self.max_tokens,
            length_exponent=self.algorithm.length_exponent,
            mean_over_ranks=mean_over_ranks,
        )
        tokens[videos] = weights.view_as(mask)
        num_decided = mean_over_ranks((rollouts.preference[list(pairs)].nan_to_num() != 0).sum().float())
        return Shares(tokens, 1 / (num_decided.clamp(min=torch.finfo().tiny) * mask.shape[1]))

    def __call__(
        self,
        rollouts: Rollouts,
        pairs: Sequence[int],
        shares: Shares,
        logprobs: Tensor,
        rewards: Tensor,
        reference_logprobs: Tensor | None = None,
    ) -> Losses:
        """Compute the losses of some pairs of a mini-batch.

        Args:
            rollouts: Rollout batch.
            pairs: Indices of the m pairs of the micro-batch.
            shares: Weights of the mini-batch that the pairs belong to.
            logprobs: `[2m, n, T]` log-probabilities of the tokens of the thoughts under the policy, by video: A of all
                pairs, then B.
            rewards: `[2m, n, K]` float32 rewards of the thoughts.
            reference_logprobs: `[2m, n, T]` log-probabilities under the reference; None leaves the KL out.
        """
        videos = rollouts.videos(pairs)
        mask, tokens = rollouts.mask[videos], shares.tokens[videos]
        policy, metrics = self._policy(rollouts, videos, tokens, logprobs)
        kl = torch.zeros_like(policy)
        if reference_logprobs is not None:
            divergence = kl_divergence(logprobs, reference_logprobs, estimator=self.kl_estimator)
            kl = (tokens * divergence).sum()
            metrics["kl"] = (divergence.detach() * mask).sum() / mask.sum().clamp(min=1)
        reward_a, reward_b = rewards.chunk(2)
        preference = rollouts.preference[list(pairs)][:, None].expand_as(reward_a)
        calibration = (shares.preference * bradley_terry_loss(reward_a, reward_b, preference)).sum()
        part = self.weights.calibration * calibration
        total = self.weights.policy * policy + self.weights.kl * kl + part
        return Losses(policy, kl, calibration, total, part, metrics)

    def _policy(
        self, rollouts: Rollouts, videos: list[int], tokens: Tensor, logprobs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms, metrics = policy_terms(
            logprobs.flatten(0, 1),
            rollouts.old_logprobs[videos].flatten(0, 1),
            rollouts.advantages[videos].flatten(),
            rollouts.mask[videos].flatten(0, 1),
            clip_low=self.algorithm.clip_low,
            clip_high=self.algorithm.clip_high,
            clip_dual=self.algorithm.clip_dual,
            max_log_ratio=self.algorithm.max_log_ratio,
            variant=self.algorithm.policy,
        )
        return (tokens.flatten(0, 1) * terms).sum(), metrics
