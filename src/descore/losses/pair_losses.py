"""Pair losses by name, behind one signature, with the rule of which pairs each of them counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from descore.losses.preference import (
    bradley_terry_loss,
    constant_margin_loss,
    margin_loss,
    mse_loss,
    rao_kupper_loss,
    scaled_loss,
)

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


def mean_over_usable(
    loss: Tensor, usable: Tensor, mean_over_ranks: Callable[[Tensor], Tensor] = lambda count: count
) -> Tensor:
    """Average over the usable pairs, so that ties and unknown labels never dilute the loss.

    Args:
        loss: [...] loss of each pair.
        usable: [...] bool, see `PairLoss.usable`.
        mean_over_ranks: Averages a scalar over the ranks of a run. With it, the mean of what ranks get is the mean over
            the usable pairs of all of them, however many each has.

    Returns:
        Scalar; with no usable pair it is 0, still attached to the graph with a zero gradient.
    """
    count = mean_over_ranks(usable.sum().float())
    return torch.where(usable, loss, 0.0).sum() / count.clamp(min=torch.finfo().tiny)
