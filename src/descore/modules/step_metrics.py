"""What stage 2 logs of a step: means over its micro-batches, statistics of its thoughts, and the time of its phases."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from descore.advantages import has_spread
from descore.thinking.rollouts import Rollouts


class Means:
    """Weighted means of named values, over all that was added and over the ranks of a run."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor | float], weight: Tensor | float = 1.0) -> None:
        """Add values that all have this weight; a value of weight 0 may be nan."""
        for name, value in values.items():
            value = torch.as_tensor(value, dtype=torch.float64)
            share = torch.as_tensor(weight, dtype=torch.float64, device=value.device)
            total = torch.where(share > 0, value * share, 0.0)
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._weights[name] = self._weights[name] + share if name in self._weights else share

    def compute(
        self, device: torch.device | str = "cpu", mean_over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return the mean of each name; nan where the weights add up to 0.

        Args:
            device: Device on which ranks exchange their sums.
            mean_over_ranks: Averages a tensor over the ranks, which have all added the same names in the same order.
        """
        if not self._sums:
            return {}
        columns = (self._sums, self._weights)
        table = torch.stack([torch.stack([value.to(device) for value in column.values()]) for column in columns])
        sums, weights = mean_over_ranks(table).cpu()
        return dict(zip(self._sums, (sums / weights).tolist(), strict=True))


def count_rollouts(means: Means, rollouts: Rollouts, *, head: bool = True) -> None:
    """Add the statistics of the thoughts of a batch: rollout rewards and their parts, lengths, accuracy of the head.

    Args:
        means: Means that the statistics are added to.
        rollouts: Rollout batch.
        head: Whether the reward of the model is that of its head, whose accuracy is then added.
    """
    for name, values in {"reward": rollouts.rewards, **rollouts.parts}.items():
        spread = values.std(dim=1)
        means.add({f"rollout/{name}": values.nanmean()}, (~values.isnan()).sum())
        means.add({f"rollout/{name}_spread": spread.nanmean()}, (~spread.isnan()).sum())
    thoughts = [thought for group in rollouts.groups for thought in group.thoughts]
    shares: dict[str, Tensor | float] = {
        "no_spread_share": (~has_spread(rollouts.rewards)).float().mean(),
        "failed_share": rollouts.rewards.isnan().float().mean(),
        "thought_tokens": sum(len(thought.token_ids) for thought in thoughts) / len(thoughts),
        "truncated_share": sum(not thought.closed for thought in thoughts) / len(thoughts),
    }
    means.add({f"rollout/{name}": share for name, share in shares.items()}, len(thoughts))
    if not head:
        return
    reward_a, reward_b = torch.stack([group.rewards.mean(0) for group in rollouts.groups]).chunk(2)
    right, decided = (reward_a - reward_b) * rollouts.preference > 0, rollouts.preference.nan_to_num() != 0
    means.add({"train/preference_accuracy": right[decided].float().mean()}, decided.sum())


class Stopwatch:
    """Times the phases of a step, each until the device has finished it.

    Args:
        device: Device that the work runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Context manager: add the time spent within to a phase."""
        self._wait()
        begun = time.perf_counter()
        yield
        self._wait()
        self._seconds[phase] += time.perf_counter() - begun

    def count(self, phase: str, num_tokens: int) -> None:
        """Add to the number of tokens that a phase has processed."""
        self._tokens[phase] += num_tokens

    def compute(self) -> dict[str, float]:
        """Return `time/<phase>` in seconds, and `time/<phase>_tokens_per_second` where tokens were counted."""
        values = {f"time/{phase}": seconds for phase, seconds in self._seconds.items()}
        rates = {f"time/{p}_tokens_per_second": num / self._seconds[p] for p, num in self._tokens.items()}
        return values | rates

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
