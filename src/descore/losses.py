"""The losses, as pure functions of tensors: one value per sample, computed in float32; the caller reduces.

Every pair loss is elementwise over tensors of one shape, [N] pairs or [N, K] with K reward dimensions:

    reward_a, reward_b  reward of video A and of video B
    preference          +1 prefers A, -1 prefers B, 0 tie, nan unknown
    mos_a, mos_b        mean opinion scores, on the scale of the reward; nan unknown
    returns             float32, 0 with zero gradient where the labels tell the loss nothing

The variants with ties, margins and scales are those of VideoReward (arXiv 2501.13918).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PairLossName = Literal["bradley_terry", "rao_kupper", "margin", "constant_margin", "scaled", "mse"]


class Labels(NamedTuple):
    """What people said of a batch of pairs; nan where they said nothing.

    A named tuple, since Lightning does not move a frozen dataclass to a device.

    Attributes:
        preference: +1 prefers A, -1 prefers B, 0 tie.
        mos_a: Mean opinion score of video A, on the scale of the reward.
        mos_b: Mean opinion score of video B, on the scale of the reward.
    """

    preference: Tensor  # [N] or [N, K]
    mos_a: Tensor  # [N] or [N, K]
    mos_b: Tensor  # [N] or [N, K]


@dataclass(frozen=True, slots=True)
class PairLoss:
    """A pair loss behind one signature, with the rule of which pairs it counts; made by `pair_loss`.

    Attributes:
        function: Takes the two rewards and the labels it reads.
        reads: The fields of `Labels` that follow the rewards, in order.
        counts_ties: Whether a tie tells this loss something.
    """

    function: Callable[..., Tensor]
    reads: tuple[str, ...]
    counts_ties: bool = False

    def __call__(self, reward_a: Tensor, reward_b: Tensor, labels: Labels) -> Tensor:
        """Return the loss of each pair, in the shape of the rewards."""
        return self.function(reward_a, reward_b, *(getattr(labels, name) for name in self.reads))

    def usable(self, labels: Labels) -> Tensor:
        """Return a bool per pair: every label that the loss reads is known, and a tie only where ties count."""
        known = torch.stack([~getattr(labels, name).isnan() for name in self.reads]).all(dim=0)
        return known if self.counts_ties else known & (labels.preference != 0)


def pair_loss(name: PairLossName, *, theta: float = 5.0, margin: float = 0.57) -> PairLoss:
    """Look a pair loss up by name.

    Args:
        name: Which loss.
        theta: Tie parameter of "rao_kupper"; above 1.
        margin: Reward difference that "constant_margin" asks for.

    Raises:
        ValueError: If there is no loss of that name.
    """
    losses = {
        "bradley_terry": PairLoss(bradley_terry_loss, ("preference",)),
        "rao_kupper": PairLoss(partial(rao_kupper_loss, theta=theta), ("preference",), counts_ties=True),
        "margin": PairLoss(margin_loss, ("preference", "mos_a", "mos_b")),
        "constant_margin": PairLoss(partial(constant_margin_loss, margin=margin), ("preference",)),
        "scaled": PairLoss(scaled_loss, ("preference", "mos_a", "mos_b")),
        "mse": PairLoss(mse_loss, ("mos_a", "mos_b"), counts_ties=True),
    }
    if name not in losses:
        raise ValueError(f"expected a pair loss among {', '.join(losses)}; got {name!r}")
    return losses[name]


def mean_over_usable(loss: Tensor, usable: Tensor) -> Tensor:
    """Average over the usable pairs, so that ties and unknown labels never dilute the loss.

    Args:
        loss: [...] loss of each pair.
        usable: [...] bool, see `PairLoss.usable`.

    Returns:
        Scalar; with no usable pair it is 0, still attached to the graph with a zero gradient.
    """
    return torch.where(usable, loss, 0.0).sum() / usable.sum().clamp(min=1)


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
