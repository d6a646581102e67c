"""Losses on the rewards of a pair, one value for each pair: Bradley-Terry, its variants, and regression."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(reward_a: Tensor, reward_b: Tensor, preference: Tensor) -> Tensor:
    """Compute the Bradley-Terry loss (1952) of each pair: -log sigmoid(r_preferred - r_other).

    Args:
        reward_a: [N] or [N, K] rewards of the videos A.
        reward_b: Rewards of the videos B, in the same shape.
        preference: +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label; in the same shape.

    Returns:
        Loss of each pair in float32, in the shape of the rewards; 0 for ties and pairs without a usable label.

    >>> bradley_terry_loss(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
    tensor([0.3133, 0.0000])
    """
    return constant_margin_loss(reward_a, reward_b, preference, margin=0.0)


def rao_kupper_loss(reward_a: Tensor, reward_b: Tensor, preference: Tensor, theta: float = 5.0) -> Tensor:
    """Compute the loss of Bradley-Terry with ties (Rao and Kupper, 1967): -log of the label's probability.

    With d = r_A - r_B, P(A) = sigmoid(d - log theta), P(B) = sigmoid(-d - log theta), and
    P(tie) = 1 - P(A) - P(B) = (theta^2 - 1) P(A) P(B).

    Args:
        reward_a: [N] or [N, K] rewards of the videos A.
        reward_b: Rewards of the videos B, in the same shape.
        preference: +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label; in the same shape.
        theta: Tie parameter, above 1; a larger one makes ties more probable.

    Returns:
        Loss of each pair in float32, in the shape of the rewards; 0 for pairs without a usable label.

    Raises:
        ValueError: If theta is not above 1, which would give ties no probability.

    Equal rewards and theta = 3 give P(A) = P(B) = 1/4 and P(tie) = 1/2:

    >>> rao_kupper_loss(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.0]), theta=3.0).neg().exp()
    tensor([0.2500, 0.5000])
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
    """Compute the Bradley-Terry loss with the difference of opinion scores as margin.

    The loss is -log sigmoid(r_preferred - r_other - (mos_preferred - mos_other)) (Llama 2, arXiv 2307.09288, eq. 2). As
    published, the margin is negative where the opinion scores contradict the preference.

    Args:
        reward_a: [N] or [N, K] rewards of the videos A.
        reward_b: Rewards of the videos B, in the same shape.
        preference: +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label; in the same shape.
        mos_a: Mean opinion scores of the videos A, in the same shape; nan where there is none.
        mos_b: Mean opinion scores of the videos B, in the same shape; nan where there is none.

    Returns:
        Loss of each pair in float32, in the shape of the rewards; 0 for ties and pairs without a label or score.

    >>> one = torch.ones(1)
    >>> margin_loss(3 * one, one, preference=one, mos_a=4 * one, mos_b=3 * one)  # -log sigmoid(3 - 1 - (4 - 3))
    tensor([0.3133])
    """
    margin = preference * (mos_a.float() - mos_b.float())
    known = torch.where(margin.isnan(), 0.0, preference)
    return constant_margin_loss(reward_a, reward_b, known, margin.nan_to_num())


def constant_margin_loss(
    reward_a: Tensor, reward_b: Tensor, preference: Tensor, margin: float | Tensor = 0.57
) -> Tensor:
    """Compute the Bradley-Terry loss with a fixed margin: -log sigmoid(r_preferred - r_other - margin).

    Args:
        reward_a: [N] or [N, K] rewards of the videos A.
        reward_b: Rewards of the videos B, in the same shape.
        preference: +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label; in the same shape.
        margin: Margin by which the preferred reward should be higher; a number, or a tensor in the same shape.

    Returns:
        Loss of each pair in float32, in the shape of the rewards; 0 for ties and pairs without a usable label.

    >>> constant_margin_loss(torch.tensor([1.5]), torch.tensor([0.0]), torch.tensor([1.0]), margin=0.5)
    tensor([0.3133])
    """
    # nan is removed from the sign before it meets a reward: masking only the loss would leave a gradient of 0 * nan.
    sign = preference.float().nan_to_num()
    return sign.abs() * -F.logsigmoid(sign * (reward_a.float() - reward_b.float()) - margin)


def scaled_loss(reward_a: Tensor, reward_b: Tensor, preference: Tensor, mos_a: Tensor, mos_b: Tensor) -> Tensor:
    """Compute the Bradley-Terry loss times the difference of opinion scores, mos_preferred - mos_other.

    As published, the factor keeps its sign: where the opinion scores contradict the preference, the loss is negative
    and unbounded below. Use it only where they agree.

    Args:
        reward_a: [N] or [N, K] rewards of the videos A.
        reward_b: Rewards of the videos B, in the same shape.
        preference: +1 where A is preferred, -1 where B is, 0 for a tie, nan for no usable label; in the same shape.
        mos_a: Mean opinion scores of the videos A, in the same shape; nan where there is none.
        mos_b: Mean opinion scores of the videos B, in the same shape; nan where there is none.

    Returns:
        Loss of each pair in float32, in the shape of the rewards; 0 for ties and pairs without a label or score.

    >>> one = torch.ones(1)
    >>> scaled_loss(one, 0 * one, preference=one, mos_a=4 * one, mos_b=2 * one)  # 2 * 0.3133
    tensor([0.6265])
    """
    weight = (preference * (mos_a.float() - mos_b.float())).nan_to_num()
    return weight * bradley_terry_loss(reward_a, reward_b, preference)


def mse_loss(reward_a: Tensor, reward_b: Tensor, mos_a: Tensor, mos_b: Tensor) -> Tensor:
    """Compute the squared error between rewards and opinion scores, averaged over the two videos of each pair.

    Args:
        reward_a: [N] or [N, K] rewards of the videos A.
        reward_b: Rewards of the videos B, in the same shape.
        mos_a: Mean opinion scores of the videos A, in the same shape; nan where there is none.
        mos_b: Mean opinion scores of the videos B, in the same shape; nan where there is none.

    Returns:
        Loss of each pair in float32, in the shape of the rewards; a video without an opinion score counts as error 0.

    >>> mse_loss(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([3.0]))  # (1 + 4) / 2
    tensor([2.5000])
    """
    error_a = torch.where(mos_a.isnan(), 0.0, reward_a.float() - mos_a.float())
    error_b = torch.where(mos_b.isnan(), 0.0, reward_b.float() - mos_b.float())
    return (error_a**2 + error_b**2) / 2
