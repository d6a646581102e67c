"""Stage 1's objective: a preference loss on the rewards of both videos, and a language-model loss on the thoughts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from descore.inputs.collate import Masking
from descore.losses.pair_losses import Labels, PairLoss, PairLossName, mean_over_usable, pair_loss

Mean = Callable[[Tensor, Tensor], Tensor]
"""Averages values over those that a mask of the same shape marks; see `mean_over_usable`."""


@dataclass(frozen=True, slots=True)
class PreferenceLosses:
    """The losses of a batch.

    Attributes:
        total: Weighted sum of the losses that have a weight.
        preference: Preference loss, without its weight; None where it has none.
        language_model: Mean negative log-probability of the tokens of the thoughts; None where it has no weight.
    """

    total: Tensor
    preference: Tensor | None
    language_model: Tensor | None


@dataclass(frozen=True)
class PreferenceObjective:
    """What the cold start minimises, and how thoughts are masked for it.

    Attributes:
        loss: Preference loss.
        theta: Tie parameter of the rao_kupper loss, above 1.
        margin: Margin of the constant_margin loss, in units of the reward.
        cot_mask_prob: Probability that a pair is scored without its thoughts in training.
        cot_masking: "sampled" draws once for each pair and epoch; "both" trains on the expectation over that draw, at
            the cost of one more token per video.
        preference_weight: Weight of the preference loss; 0 trains no head.
        language_model_weight: Weight of the language-model loss on the teacher's thoughts (arXiv 2406.10216).

    Raises:
        ValueError: If there is no such loss, or the probability is not within 0 and 1.
    """

    loss: PairLossName = "bradley_terry"
    theta: float = 5.0
    margin: float = 0.57
    cot_mask_prob: float = 0.5
    cot_masking: Masking = "sampled"
    preference_weight: float = 1.0
    language_model_weight: float = 0.0

    def __post_init__(self) -> None:
        pair_loss(self.loss, theta=self.theta, margin=self.margin)
        if not 0 <= self.cot_mask_prob <= 1:
            raise ValueError(f"cot_mask_prob is {self.cot_mask_prob}; expected a probability from 0 to 1")

    @property
    def pair_loss(self) -> PairLoss:
        """The preference loss with its parameters."""
        return pair_loss(self.loss, theta=self.theta, margin=self.margin)

    @property
    def reads_logprobs(self) -> bool:
        """Whether the log-probabilities of the thoughts are needed."""
        return self.language_model_weight > 0

    def __call__(
        self, rewards: Tensor, logprobs: Tensor, labels: Labels, mean: Mean = mean_over_usable
    ) -> PreferenceLosses:
        """Compute the losses of N pairs whose videos have n branches each, and K rewards.

        Args:
            rewards: [2, N, n, K] rewards of videos A and B; n = 1 branch as drawn, or 2: with the thought and without.
            logprobs: [M] log-probability of every token of all thoughts; not read without a language-model loss.
            labels: What people said, [N, K] each.
            mean: Averages over the usable values of the batch, of all ranks.
        """
        total = torch.zeros((), device=rewards.device)
        preference = language_model = None
        if self.preference_weight > 0:
            preference = self._preference(rewards, labels, mean)
            total = total + self.preference_weight * preference
        if self.language_model_weight > 0:
            language_model = mean(-logprobs, torch.ones_like(logprobs).bool())
            total = total + self.language_model_weight * language_model
        return PreferenceLosses(total, preference, language_model)

    def _preference(self, rewards: Tensor, labels: Labels, mean: Mean) -> Tensor:
        """Mean loss of the pairs; two branches are weighted by the probability of the mask."""
        reward_a, reward_b = rewards
        labels = labels.of_branches(reward_a)
        losses, usable = self.pair_loss(reward_a, reward_b, labels), self.pair_loss.usable(labels)
        shares = [1 - self.cot_mask_prob, self.cot_mask_prob] if rewards.shape[2] == 2 else [1.0]
        branches = zip(shares, losses.unbind(1), usable.unbind(1), strict=True)
        return torch.stack([share * mean(*branch) for share, *branch in branches]).sum()
