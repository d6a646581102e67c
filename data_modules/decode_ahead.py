"""Number of decoding workers, and how far each decodes ahead, within a limit on memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from descore.video.settings import VideoSettings

_BUILDING = 2
"""Memory that a worker needs to build a batch, besides the batch itself, in batches: its frames and patches."""


@dataclass(frozen=True, slots=True)
class DecodeAhead:
    """Workers that decode ahead, as torch's DataLoader takes them.

    Attributes:
        num_workers: Number of worker processes; 0 decodes in the training process.
        prefetch_factor: Number of batches that each worker builds or keeps ready.
    """

    num_workers: int
    prefetch_factor: int

    def num_batches(self) -> int:
        """Return the most batches that are in memory at a time, counting what workers need to build them."""
        return self.num_workers * (self.prefetch_factor + _BUILDING)


def most_bytes(num_pairs: int, video: VideoSettings, *, keep_frames: bool = False) -> int:
    """Return the bytes of a batch whose videos all have the most frames and pixels that the settings allow.

    Args:
        num_pairs: Number of pairs per batch.
        video: Limits on frames per video and pixels per frame.
        keep_frames: Whether the batch also holds the frames themselves, as in validation.
    """
    copies = 2 if keep_frames else 1
    return num_pairs * 2 * copies * video.max_frames * 3 * video.max_pixels


def plan(num_workers: int, batch_bytes: int, max_bytes: int) -> DecodeAhead:
    """Choose the number of workers and their prefetch factor within a memory limit.

    Each worker prefetches two batches if the limit allows, or else one; if one is too many, there are fewer workers.
    One worker always remains, with a warning if even its one batch may exceed the limit.

    Args:
        num_workers: Largest number of workers; 0 decodes in the training process.
        batch_bytes: Size of one batch in bytes.
        max_bytes: Memory limit of all workers together, in bytes.

    >>> plan(8, batch_bytes=100, max_bytes=3200)
    DecodeAhead(num_workers=8, prefetch_factor=2)
    >>> plan(8, batch_bytes=100, max_bytes=2400)
    DecodeAhead(num_workers=8, prefetch_factor=1)
    >>> plan(8, batch_bytes=100, max_bytes=1000)
    DecodeAhead(num_workers=3, prefetch_factor=1)
    """
    if not num_workers:
        return DecodeAhead(0, 0)
    for ahead in (DecodeAhead(workers, prefetch) for workers in range(num_workers, 0, -1) for prefetch in (2, 1)):
        if ahead.num_batches() * batch_bytes <= max_bytes:
            return ahead
    warnings.warn(
        f"one batch of the longest and largest videos takes {(1 + _BUILDING) * batch_bytes / 2**30:.1f} GiB to build, "
        f"but --data.decoding.ahead_gb allows {max_bytes / 2**30:.1f}; one worker decodes one batch at a time. To "
        "decode further ahead, raise that limit, or lower the batch size, --model.video.max_frames or "
        "--model.video.max_pixels",
        stacklevel=2,
    )
    return DecodeAhead(1, 1)
