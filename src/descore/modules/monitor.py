"""What a step of several updates is logged as: means over its parts, and the time of its phases."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Means:
    """Weighted means of named values; values of a device stay there."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = defaultdict(float)
        self._weights: dict[str, Tensor | float] = defaultdict(float)

    def add(self, values: Mapping[str, Tensor | float], weight: Tensor | float = 1.0) -> None:
        """Count values that all have this weight."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + weight * value
            self._weights[name] = self._weights[name] + weight

    def compute(self) -> dict[str, Tensor | float]:
        """Return the mean of each name."""
        return {name: total / self._weights[name] for name, total in self._sums.items()}


class Stopwatch:
    """Times the phases of a step, each until the device is done with it.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time what runs within, and add it to the phase."""
        self._wait()
        begun = time.perf_counter()
        yield
        self._wait()
        self._seconds[phase] += time.perf_counter() - begun

    def count(self, phase: str, num_tokens: int) -> None:
        """Count tokens that a phase has worked on."""
        self._tokens[phase] += num_tokens

    def compute(self) -> dict[str, float]:
        """Return `time/<phase>` in seconds, and `time/<phase>_tokens_per_second` where tokens were counted."""
        values = {f"time/{phase}": seconds for phase, seconds in self._seconds.items()}
        rates = {f"time/{p}_tokens_per_second": num / self._seconds[p] for p, num in self._tokens.items()}
        return values | rates

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
