"""Numbers of the page from plain tensors: means with intervals, spreads, and thirds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from descore.metrics import bootstrap_interval

Json = dict[str, Any]


def summarise(found: Tensor) -> Json:
    """Mean of calls `[seeds, N]`, its interval over pairs, and the mean of each seed.

    A call is 1 where a pair is right, 0 where it is wrong, and nan where it does not count.

    >>> found = summarise(torch.tensor([[1.0, 1.0, 0.0, torch.nan], [1.0, 0.0, 0.0, torch.nan]]))
    >>> [round(value, 3) for value in (found["mean"], *found["seeds"])]
    [0.5, 0.667, 0.333]
    """
    low, high = bootstrap_interval(found.nanmean(0))
    return {"mean": float(found.nanmean(1).mean()), "low": low, "high": high, "seeds": found.nanmean(1).tolist()}


def spread_of_steps(loss: Tensor) -> float:
    """Spread of a loss `[seeds, steps]` from step to step, as a share of its mean; the mean over seeds.

    It is the root mean square of the differences between neighbours over the square root of 2.

    >>> round(spread_of_steps(torch.tensor([[1.0, 3.0, 1.0, 3.0]])), 4)  # 2 / sqrt(2) / 2
    0.7071
    """
    return float(((loss.diff(dim=1) ** 2).mean(dim=1).sqrt() / 2**0.5 / loss.mean(dim=1).abs()).mean())


def in_thirds(right: Tensor, spread: Tensor) -> list[Json]:
    """Accuracy in thirds of the calls `[N]` by spread `[N]`, from low to high; nan does not count.

    >>> thirds = in_thirds(torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, torch.nan]), torch.tensor([5.0, 4, 1, 2, 3, 0]))
    >>> [(third["mean"], third["num"], third["spread"]) for third in thirds]
    [(1.0, 2, 1.5), (0.5, 2, 3.5), (0.0, 1, 5.0)]
    """
    counted = ~right.isnan() & ~spread.isnan()
    right, spread = right[counted], spread[counted]
    found = []
    for third in spread.argsort().tensor_split(3):
        low, high = bootstrap_interval(right[third])
        mean, distance = float(right[third].mean()), float(spread[third].mean())
        found.append({"mean": mean, "low": low, "high": high, "num": len(third), "spread": distance})
    return found
