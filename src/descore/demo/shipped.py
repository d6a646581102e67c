"""The model `demo` and its videos, which ship with the package."""

from __future__ import annotations

import csv
from pathlib import Path

DEMO = "demo"
"""Name of the model."""

FOLDER = Path(__file__).parent
MODEL, VIDEOS = "model", "videos"
TABLE = "videos.csv"

NOTICE = "the model demo knows a toy world only: it is small, and has seen nothing but videos that this project renders"


def demo_videos(folder: Path = FOLDER) -> tuple[list[str], list[str]]:
    """Return the paths of the videos, and their prompts: for each prompt a better video, then a worse one.

    Args:
        folder: Folder of the table, that of the package if not given.

    >>> videos, prompts = demo_videos()
    >>> len(videos), len(prompts)
    (6, 6)
    """
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [str(folder / row["video"]) for row in rows], [row["prompt"] for row in rows]
