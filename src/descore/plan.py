"""The order in which videos are scored: dear ones first, in batches that depend on nothing but the videos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import av
import torch

from descore.decoding import Decoder
from descore.types import Frames
from descore.video import VideoSettings, sample_indices
from descore.video_checks import VideoError, open_container

Batches = list[list[int]]
"""Places of videos, batch by batch."""


def costs_of(paths: Sequence[str], settings: VideoSettings) -> list[int]:
    """Estimate what scoring each video takes: the pixels that the model sees of it, in its thousands.

    Only headers are read, in child processes, as videos are: a few milliseconds a file. A file without a usable header
    costs 0; scoring tells what is wrong with it.
    """
    read = Decoder(read_header)

    def cost(path: str) -> int:
        try:
            return _pixels_seen(read(path), settings) // 1000
        except VideoError:
            return 0

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(cost, paths))


def read_header(path: str) -> Frames:
    """Read what a video file declares of itself, as frames without pixels: [0, 3, height, width]."""
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            if stream is None or not (stream.width and stream.height and stream.average_rate):
                raise VideoError(path, "expected a frame size and a frame rate in the header, found none")
            fps = float(stream.average_rate)
            count = stream.frames or round(fps * (container.duration or 0) / av.time_base)
            return Frames(torch.empty(0, 3, stream.height, stream.width, dtype=torch.uint8), (), fps, count)
    except av.FFmpegError as error:
        raise VideoError(path, f"its container cannot be read ({error.strerror})") from error


def _pixels_seen(header: Frames, settings: VideoSettings) -> int:
    num_frames = len(sample_indices(max(header.num_source_frames, 1), header.source_fps, settings, even=2))
    area = header.pixels.shape[2] * header.pixels.shape[3]
    return num_frames * min(max(area, settings.min_pixels), settings.max_pixels)


def plan(costs: Sequence[int], batch_size: int) -> Batches:
    """Cut the videos into batches, the dearest first; of equal ones the earlier first.

    >>> plan([10, 30, 20, 30, 5], batch_size=2)
    [[1, 3], [2, 0], [4]]
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def share(batches: Batches, costs: Sequence[int], shard: tuple[int, int]) -> Batches:
    """Take shard i of n of a plan: each batch goes, whole, to the shard that has cost least so far.

    >>> share([[1, 3], [2, 0], [4]], [10, 30, 20, 30, 5], (2, 2))
    [[2, 0], [4]]
    """
    shards: list[Batches] = [[] for _ in range(shard[1])]
    spent = [0] * shard[1]
    for batch in batches:
        least = spent.index(min(spent))
        shards[least].append(batch)
        spent[least] += total(costs, batch)
    return shards[shard[0] - 1]


def total(costs: Sequence[int], places: Iterable[int]) -> int:
    """Add up the costs of some videos, each at least 1, so that progress shows."""
    return sum(max(costs[place], 1) for place in places)
