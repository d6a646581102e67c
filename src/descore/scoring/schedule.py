"""Scoring order: most expensive videos first, in batches determined by the videos alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from descore.scoring.progress import progress
from descore.video.checks import VideoHeader, read_header
from descore.video.frames import VideoReader, frame_size, sample_indices
from descore.video.isolation import IsolatedReader

Batches = list[list[int]]
"""Indices of videos, batch by batch."""


def count_tokens(paths: Sequence[str], reader: VideoReader) -> list[int]:
    """Count the tokens that each video takes, which are its cost.

    Only the headers of the files are read, in child processes: a few milliseconds per file. A file without a usable
    header has none; scoring will report its error.

    Args:
        paths: Paths of the video files.
        reader: Sampling of frames and limits of pixels, which determine what the model sees of a video.
    """
    read = IsolatedReader(read_header)

    def count(path: str) -> int:
        try:
            return _tokens_of(read(path), reader)
        except ValueError:  # a header that cannot be read, or a frame that is too long
            return 0

    counts = []
    with ThreadPoolExecutor(4) as pool, progress("Reading headers", len(paths), len(paths)) as advance:
        for found in pool.map(count, paths):
            counts.append(found)
            advance(1)
    return counts


def _tokens_of(header: VideoHeader, reader: VideoReader) -> int:
    settings, factor, even = reader.settings, reader.factor, reader.even
    num_frames = len(sample_indices(max(header.num_frames, 1), header.fps, settings, even, header.times))
    height, width = reader.size or frame_size(header.height, header.width, factor, settings)
    return num_frames // even * (height // factor) * (width // factor)


def order_batches(costs: Sequence[int], max_tokens: int, more: int) -> Batches:
    """Divide videos into batches, the most expensive first; among equally expensive ones the earlier first.

    With the largest batch first, one that is too large for the memory fails at once, and not hours later.

    Args:
        costs: Tokens of each video.
        max_tokens: Tokens of a batch; a video that has more alone is a batch of its own.
        more: Tokens of each video's prompt and thoughts.

    >>> order_batches([10, 30, 20, 30, 5], max_tokens=70, more=5)
    [[1, 3], [2, 0, 4]]
    """
    batches: Batches = []
    left = 0
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        if not batches or costs[index] + more > left:
            batches.append([])
            left = max_tokens
        batches[-1].append(index)
        left -= costs[index] + more
    return batches


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
