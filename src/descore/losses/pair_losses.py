"""Pair losses by name, with one signature, and the rule for which pairs each loss uses."""

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
    """Labels of a batch of pairs; nan where a label is missing.

    A named tuple, since Lightning does not move a frozen dataclass to a device.

    Attributes:
        preference: Preference of each pair: +1 for A, -1 for B, 0 for a tie.
        mos_a: Mean opinion score of each video A, on the scale of the rewards.
        mos_b: Mean opinion score of each video B, on the scale of the rewards.
    """

    preference: Tensor  # [N] or [N, K]
    mos_a: Tensor  # [N] or [N, K]
    mos_b: Tensor  # [N] or [N, K]

    def of_branches(self, rewards: Tensor) -> Labels:
        """Repeat labels [N, K] for the n branches of every video, in the shape of their rewards [N, n, K]."""
        return Labels(*(values[:, None].expand_as(rewards) for values in self))


@dataclass(frozen=True, slots=True)
class PairLoss:
    """A pair loss that takes `Labels`, and the rule for which pairs it uses; see `pair_loss`.

    Attributes:
        function: Loss of two rewards and the labels named in `reads`.
        reads: Fields of `Labels` to pass to the function after the rewards, in order.
        counts_ties: Whether pairs labelled as ties are used.
    """

    function: Callable[..., Tensor]
    reads: tuple[str, ...]
    counts_ties: bool = False

    def __call__(self, reward_a: Tensor, reward_b: Tensor, labels: Labels) -> Tensor:
        """Compute the loss of each pair in float32, in the shape of the rewards ([N] or [N, K])."""
        return self.function(reward_a, reward_b, *(getattr(labels, name) for name in self.reads))

    def usable(self, labels: Labels) -> Tensor:
        """Return which pairs the loss uses, as bool in the shape of the labels.

        A pair is used if every label that the loss reads is known, and ties only if `counts_ties`.
        """
        known = torch.stack([~getattr(labels, name).isnan() for name in self.reads]).all(dim=0)
        return known if self.counts_ties else known & (labels.preference != 0)


def pair_loss(name: PairLossName, *, theta: float = 5.0, margin: float = 0.57) -> PairLoss:
    """Return the pair loss of a name.

    Args:
        name: Name of the loss: "bradley_terry", "rao_kupper", "margin", "constant_margin", "scaled" or "mse".
        theta: Tie parameter of "rao_kupper", above 1.
        margin: Margin of "constant_margin".

    Raises:
        ValueError: If the name is unknown.

    >>> loss, unknown = pair_loss("bradley_terry"), torch.full((2,), torch.nan)
    >>> labels = Labels(preference=torch.tensor([1.0, 0.0]), mos_a=unknown, mos_b=unknown)
    >>> loss(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0]), labels), loss.usable(labels)
    (tensor([0.3133, 0.0000]), tensor([ True, False]))
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
    """Average a loss over the usable pairs, so that ties and missing labels do not dilute it.

    Args:
        loss: [...] loss of each pair.
        usable: [...] bool, which pairs to average over; see `PairLoss.usable`.
        mean_over_ranks: Function that averages a scalar over the ranks of a run. With it, the results of the ranks
            average to the mean over the usable pairs of all ranks, even if their numbers differ.

    Returns:
        Scalar. If no pair is usable it is 0, still attached to the graph with a zero gradient.

    >>> mean_over_usable(torch.tensor([0.5, 1.5, 9.0]), torch.tensor([True, True, False]))
    tensor(1.)
    """
    count = mean_over_ranks(usable.sum().float())
    return torch.where(usable, loss, 0.0).sum() / count.clamp(min=torch.finfo().tiny)
