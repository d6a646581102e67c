"""The settings of how a video is sampled and resized."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class VideoSettings:
    """Number and size of the frames of a video. Both stages and scoring share these values; the export holds them.

    Args:
        fps: Number of frames to sample per second of video.
        min_frames: Smallest number of frames to sample from a video, if it has that many.
        max_frames: Largest number of frames to sample from a video; a longer video is sampled at a lower rate.
        min_pixels: Smallest area of a frame in pixels; a smaller frame is enlarged to about this area.
        max_pixels: Largest area of a frame in pixels; a larger frame is shrunk to at most this area.

    Raises:
        ValueError: If a value is not positive, or a minimum is above its maximum.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 60
    min_pixels: int = 4096
    max_pixels: int = 200_704

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise ValueError(f"expected fps above 0, got {self.fps}")
        if not 1 <= self.min_frames <= self.max_frames:
            raise ValueError(f"expected 1 <= min_frames <= max_frames, got {self.min_frames} and {self.max_frames}")
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise ValueError(f"expected 1 <= min_pixels <= max_pixels, got {self.min_pixels} and {self.max_pixels}")
