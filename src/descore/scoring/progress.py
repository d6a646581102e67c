"""Progress of long scoring: a bar on a terminal, and a line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class Advance(Protocol):
    """Callable that counts one more video as done."""

    def __call__(self, cost: float) -> None:
        """Count a video of some cost as done."""


@contextmanager
def progress(title: str, num_videos: int, total_cost: float) -> Iterator[Advance]:
    """Show on stderr how many videos are done and the time left, as estimated from the cost of what remains.

    Args:
        title: What is being done, such as "Scoring".
        num_videos: Number of videos to be done.
        total_cost: Sum of their costs, in any unit.

    Yields:
        Function to call with the cost of each video that is done.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, num_videos, total_cost)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]} of {task.fields[videos]} videos"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=600,
    ) as bar:
        task = bar.add_task(title, total=total_cost, done=0, videos=num_videos)

        def advance(cost: float) -> None:
            bar.update(task, advance=cost, done=bar.tasks[0].fields["done"] + 1)

        yield advance


class _Lines:
    def __init__(self, title: str, num_videos: int, total_cost: float) -> None:
        self.title, self.num_videos, self.total_cost = title, num_videos, total_cost
        self.done, self.spent = 0, 0.0
        self.begun = self.last = time.monotonic()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def __call__(self, cost: float) -> None:
        self.done += 1
        self.spent += cost
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            left = timedelta(seconds=round((now - self.begun) * (self.total_cost / self.spent - 1)))
            self.console.print(f"{self.title}: {self.done} of {self.num_videos} videos, {left} left")
