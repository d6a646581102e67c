"""A run of many cases on one device: what each takes, its share of the peak, its memory, and what did not fit."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.speed.harness import result_table, timed

COLUMNS = ("case", "way", "seconds", "ratio", "tokens/s", "TFLOP", "share", "peak GB", "note")


@dataclass(slots=True)
class Bench:
    """Measures cases while there is time, and keeps their rows.

    Attributes:
        options: Of the command line: device, budget in seconds, repeats.
        peak: Operations a second of a large product.
        begun: When, by the clock.
        rows: One for each case and way.
        seconds: By case and way; the first way of a case is what the others are compared with.
        said: Sentences about the run.
    """

    options: argparse.Namespace
    peak: float
    begun: float = field(default_factory=time.perf_counter)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def measure(
        self,
        case: str,
        way: str,
        run: Callable[[], float],
        *,
        tokens: int,
        operations: float,
        repeats: int = 0,
        note: str = "",
    ) -> None:
        """Add a row for what `run` says it took: the median of its repeats, or if there is one its first run."""
        if self.elapsed() > self.options.budget:
            self.add(case, way, note="not reached: no time left")
            return
        try:
            taken, memory = self._median(run, repeats or self.options.repeats)
        except torch.OutOfMemoryError:
            self.add(case, way, note="out of memory")
        else:
            self.seconds[case, way] = taken
            share = f"{operations / taken / self.peak:.0%}"
            cells = (f"{taken:.3g}", self._ratio(case, way), f"{tokens / taken:,.0f}", f"{operations / 1e12:,.3g}")
            self.add(case, way, *cells, share, memory, note=note)
        free(self.options.device)

    def together(self, case: str, first: Mapping[str, tuple[str, str]], second: str) -> None:
        """Add rows for the sum of two cases, by way; of the first one, each way says which case and way it takes."""
        for way, key in first.items():
            if {key, (second, way)} <= set(self.seconds):
                self.seconds[case, way] = self.seconds[key] + self.seconds[second, way]
                self.add(case, way, f"{self.seconds[case, way]:.3g}", self._ratio(case, way), note="sum of its parts")

    def add(self, case: str, way: str, *cells: str, note: str) -> None:
        """Add a row; cells that are not given stay empty."""
        self.rows.append((case, way, *cells, *[""] * (len(COLUMNS) - 3 - len(cells)), note))

    def say(self, sentence: str) -> None:
        """Keep a sentence for the end."""
        self.said.append(sentence)

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.begun

    def table(self) -> Table:
        """Return all rows."""
        table = result_table(*COLUMNS, words=["case", "way", "note"], markdown=self.options.markdown)
        for row in self.rows:
            table.add_row(*row)
        return table

    def _median(self, run: Callable[[], float], repeats: int) -> tuple[float, str]:
        """Seconds, and peak of memory in GB on a GPU."""
        on_gpu = torch.device(self.options.device).type == "cuda"
        if repeats > 1:
            run()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        taken = float(np.median([run() for _ in range(repeats)]))
        return taken, f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if on_gpu else ""

    def _ratio(self, case: str, way: str) -> str:
        first = next(seconds for (name, _), seconds in self.seconds.items() if name == case)
        return f"{self.seconds[case, way] / first:.2f}"


def largest_product(options: argparse.Namespace) -> float:
    """Operations a second of a large bf16 product."""
    left, right = (torch.randn(options.product, options.product, device=options.device).bfloat16() for _ in "ab")

    def products() -> None:
        for _ in range(10):
            left @ right

    products()
    best = min(timed(products)[0] for _ in range(5))
    return 10 * 2 * options.product**3 / float(best)


def autocast(options: argparse.Namespace) -> torch.autocast:
    """Narrow products to bfloat16, as Lightning does: with a cache they would go on with weights that have moved."""
    return torch.autocast(torch.device(options.device).type, torch.bfloat16, cache_enabled=False)


def in_bf16(options: argparse.Namespace, run: Callable[[], Any]) -> Callable[[], float]:
    """Run under autocast, and say how many seconds it took."""

    def clocked() -> float:
        with autocast(options):
            return float(timed(run)[0])

    return clocked


def free(device: str) -> None:
    """Give memory back that nothing holds any more."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
