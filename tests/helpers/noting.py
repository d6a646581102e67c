"""A task that leaves a note; it lies apart, so that the processes that run it import little."""

from __future__ import annotations

import time
from pathlib import Path


def note(folder: str, name: str, needs: str = "", fail: str = "") -> None:
    """Leave a file that says when, and fail where a file says so."""
    path = Path(folder)
    assert all((path / need).exists() for need in needs.split())
    print(f"{name} runs")
    if fail and (path / fail).exists():
        raise RuntimeError("as asked for")
    time.sleep(0.05)
    with (path / name).open("a") as file:
        file.write("once\n")
