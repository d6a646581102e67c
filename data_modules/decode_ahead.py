"""How many workers may decode how far ahead, within a bound on the memory of what they hold."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from descore.video.settings import VideoSettings

_BUILDING = 2
"""What a worker holds beside the batch that it builds, in batches: the frames and patches that it is made of."""


@dataclass(frozen=True, slots=True)
class DecodeAhead:
    """Attributes are those of torch's DataLoader: workers, and batches that each of them has in the making or ready."""

    num_workers: int
    prefetch_factor: int

    def num_batches(self) -> int:
        """Most batches that are held at a time, counting what the workers build them of."""
        return self.num_workers * (self.prefetch_factor + _BUILDING)


def most_bytes(num_pairs: int, video: VideoSettings, *, keep_frames: bool = False) -> int:
    """Bytes of a batch whose videos all have the most frames and pixels that the settings allow."""
    copies = 2 if keep_frames else 1
    return num_pairs * 2 * copies * video.max_frames * 3 * video.max_pixels


def plan(num_workers: int, batch_bytes: int, max_bytes: int) -> DecodeAhead:
    """Choose two batches a worker where there is room, else one, else fewer workers.

    One worker is left in any case, with a warning where even its one batch may take more than there is.

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
        f"and data.decoding.ahead_gb allows {max_bytes / 2**30:.1f}: one worker decodes one batch at a time; lower the "
        "batch size, model.max_frames or model.max_pixels, or allow more",
        stacklevel=2,
    )
    return DecodeAhead(1, 1)
