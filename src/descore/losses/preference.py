"""Preference losses on pairs of rewards, as pure functions of tensors, computed in float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(reward_a: Tensor, reward_b: Tensor, preference: Tensor) -> Tensor:
    """Bradley-Terry: -log sigmoid(r_preferred - r_other); 0 at ties."""
    return constant_margin_loss(reward_a, reward_b, preference, margin=0.0)


def rao_kupper_loss(reward_a: Tensor, reward_b: Tensor, preference: Tensor, theta: float = 5.0) -> Tensor:
    """Bradley-Terry with ties (Rao and Kupper, 1967): the negative log-probability of what people said.

    With d = r_A - r_B: P(A) = sigmoid(d - log theta), P(B) = sigmoid(-d - log theta), and a tie has the rest,
    (theta^2 - 1) P(A) P(B). A larger theta makes ties more probable.

    Raises:
        ValueError: If theta is not above 1, where a tie has no probability.
    """
    if theta <= 1:
        raise ValueError(f"expected theta above 1, got {theta}; for a loss without ties use bradley_terry_loss")
    difference = reward_a.float() - reward_b.float()
    loss_a = -F.logsigmoid(difference - math.log(theta))
    loss_b = -F.logsigmoid(-difference - math.log(theta))
    loss_tie = loss_a + loss_b - math.log(theta**2 - 1)
    loss = torch.where(preference > 0, loss_a, torch.where(preference < 0, loss_b, loss_tie))
    return torch.where(preference.isnan(), 0.0, loss)


def margin_loss(reward_a: Tensor, reward_b: Tensor, preference: Tensor, mos_a: Tensor, mos_b: Tensor) -> Tensor:
    """Bradley-Terry that asks for rewards as far apart as the opinion scores (Llama 2, arXiv 2307.09288, eq. 2).

    -log sigmoid(r_preferred - r_other - (mos_preferred - mos_other)); 0 at ties. As published, the margin is negative
    where the opinion scores contradict the preference.
    """
    margin = preference * (mos_a.float() - mos_b.float())
    known = torch.where(margin.isnan(), 0.0, preference)
    return constant_margin_loss(reward_a, reward_b, known, margin.nan_to_num())


def constant_margin_loss(
    reward_a: Tensor, reward_b: Tensor, preference: Tensor, margin: float | Tensor = 0.57
) -> Tensor:
    """Bradley-Terry that asks for rewards `margin` apart: -log sigmoid(r_preferred - r_other - margin); 0 at ties."""
    # The sign loses its nan before it meets a reward: masking only the loss would leave a gradient of 0 * nan.
    sign = preference.float().nan_to_num()
    return sign.abs() * -F.logsigmoid(sign * (reward_a.float() - reward_b.float()) - margin)


def scaled_loss(reward_a: Tensor, reward_b: Tensor, preference: Tensor, mos_a: Tensor, mos_b: Tensor) -> Tensor:
    """Bradley-Terry times how far apart the opinion scores are, mos_preferred - mos_other; 0 at ties.

    As published, the factor keeps its sign: where the opinion scores contradict the preference the loss is negative
    and has no lower bound, so use it with labels that agree.
    """
    weight = (preference * (mos_a.float() - mos_b.float())).nan_to_num()
    return weight * bradley_terry_loss(reward_a, reward_b, preference)


def mse_loss(reward_a: Tensor, reward_b: Tensor, mos_a: Tensor, mos_b: Tensor) -> Tensor:
    """Regression on opinion scores: the squared error of the reward, averaged over the two videos.

    A video without an opinion score adds 0, and `PairLoss.usable` leaves its pair out of the mean.
    """
    error_a = torch.where(mos_a.isnan(), 0.0, reward_a.float() - mos_a.float())
    error_b = torch.where(mos_b.isnan(), 0.0, reward_b.float() - mos_b.float())
    return (error_a**2 + error_b**2) / 2
