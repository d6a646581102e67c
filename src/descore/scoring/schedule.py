"""Scoring order: most expensive videos first, in batches determined by the videos alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from descore.scoring.progress import progress
from descore.video.checks import VideoError, VideoHeader, read_header
from descore.video.frames import sample_indices
from descore.video.isolation import IsolatedReader
from descore.video.settings import VideoSettings

Batches = list[list[int]]
"""Indices of videos, batch by batch."""


def costs_of(paths: Sequence[str], settings: VideoSettings) -> list[int]:
    """Estimate the cost of scoring each video, in thousands of pixels shown to the model.

    Only the headers of the files are read, in child processes: a few milliseconds per file. A file without a usable
    header costs 0; scoring will report its error.

    Args:
        paths: Paths of the video files.
        settings: Sampling of frames and limits of pixels, which determine what the model sees of a video.
    """
    read = IsolatedReader(read_header)

    def cost(path: str) -> int:
        try:
            return _pixels_seen(read(path), settings) // 1000
        except VideoError:
            return 0

    costs = []
    with ThreadPoolExecutor(4) as pool, progress("Reading headers", len(paths), len(paths)) as advance:
        for found in pool.map(cost, paths):
            costs.append(found)
            advance(1)
    return costs


def _pixels_seen(header: VideoHeader, settings: VideoSettings) -> int:
    num_frames = len(sample_indices(max(header.num_frames, 1), header.fps, settings, even=2))
    area = header.height * header.width
    return num_frames * min(max(area, settings.min_pixels), settings.max_pixels)


def order_batches(costs: Sequence[int], batch_size: int) -> Batches:
    """Divide videos into batches, the most expensive first; among equally expensive ones the earlier first.

    With the largest batch first, a batch size that is too large for the memory fails at once, and not hours later.

    Args:
        costs: Cost of each video.
        batch_size: Number of videos per batch.

    >>> order_batches([10, 30, 20, 30, 5], batch_size=2)
    [[1, 3], [2, 0], [4]]
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def take_shard(batches: Batches, costs: Sequence[int], shard: tuple[int, int]) -> Batches:
    """Return the batches of one shard: each batch goes to the shard with the lowest total cost so far.

    Args:
        batches: Batches of the whole evaluation.
        costs: Cost of each video.
        shard: (i, n) for shard i of n, counted from 1.

    >>> take_shard([[1, 3], [2, 0], [4]], [10, 30, 20, 30, 5], (2, 2))
    [[2, 0], [4]]
    """
    shards: list[Batches] = [[] for _ in range(shard[1])]
    spent = [0] * shard[1]
    for batch in batches:
        least = spent.index(min(spent))
        shards[least].append(batch)
        spent[least] += total_cost(costs, batch)
    return shards[shard[0] - 1]


def total_cost(costs: Sequence[int], indices: Iterable[int]) -> int:
    """Sum the costs of some videos, each counted as at least 1 so that every video advances the progress bar.

    >>> total_cost([10, 0, 5], [0, 1])
    11
    """
    return sum(max(costs[index], 1) for index in indices)
