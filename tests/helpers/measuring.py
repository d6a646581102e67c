"""Measure a function and print a table of results, for the scripts in tests/robustness."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

Result = TypeVar("Result")

Seconds = NDArray[np.float64]
"""[2]: wall-clock time and CPU time."""


def in_fresh_process(function: Callable[..., Result], *args: Any) -> Result:
    """Run a function of a module in a new process, so that the peak memory of that process is the function's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(function, *args).result()


def medians(ways: Mapping[str, Callable[[], Seconds]], repeats: int) -> dict[str, Seconds]:
    """Median of the seconds that each way returns; the ways alternate, so that a busy machine slows them all."""
    taken: dict[str, list[Seconds]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, measure in ways.items():
            taken[way].append(measure())
    return {way: np.median(times, axis=0) for way, times in taken.items()}


def result_table(*columns: str, words: Collection[str], markdown: bool) -> Table:
    """Start a table; columns of words are aligned left, those of numbers right."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE)
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table
