"""The settings of how a video is sampled and resized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Sampler = Literal["ends", "ends_floor", "starts"]
"""Rule that places n frames in a video of N."""

Resize = Literal["smart", "square", "longest_side"]
"""Rule that gives a frame its size."""

MAX_FRAMES, MAX_PIXELS = 36_000, 7680 * 4320
"""Most frames of a video, and pixels of a frame, that settings may ask for: those of the largest source."""


@dataclass(frozen=True)
class VideoSettings:
    """Number and size of the frames of a video. Both stages and scoring share these values; the export holds them.

    Args:
        fps: Number of frames to sample per second of video.
        min_frames: Smallest number of frames to sample from a video, if it has that many.
        max_frames: Largest number of frames to sample from a video; a longer video is sampled at a lower rate.
        min_pixels: Smallest area of a frame in pixels; a smaller frame is enlarged to about this area.
        max_pixels: Largest area of a frame in pixels; a larger frame is shrunk to at most this area.
        sampler: Rule that places n frames in a video of N: "ends", at equal distances from the first frame to the last,
            rounded to the nearest; "ends_floor", the same rounded down; "starts", frame floor(i N / n), the first of
            each of n equal parts.
        resize: Rule that gives a frame its size, in whole merged patches: "smart", its aspect ratio kept up to
            rounding and its area within the limits; "square", the largest square within `max_pixels`, the ratio lost;
            "longest_side", its longer side at most the square root of `max_pixels`, the ratio kept, never enlarged. A
            family that takes one size only has its own.

    Raises:
        ValueError: If a value is not positive, a minimum above its maximum, a maximum above the largest source, or the
            sampler or the resize rule is unknown.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 60
    min_pixels: int = 4096
    max_pixels: int = 200_704
    sampler: Sampler = "ends"
    resize: Resize = "smart"

    def __post_init__(self) -> None:
        for name, rules in (("sampler", Sampler), ("resize", Resize)):
            if (rule := getattr(self, name)) not in get_args(rules):
                raise ValueError(f"expected {name} among {', '.join(get_args(rules))}; got {rule!r}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"expected fps above 0, got {self.fps}")
        for kind, most in (("frames", MAX_FRAMES), ("pixels", MAX_PIXELS)):
            low, high = getattr(self, f"min_{kind}"), getattr(self, f"max_{kind}")
            if not 1 <= low <= high <= most or low != int(low) or high != int(high):
                raise ValueError(f"expected whole 1 <= min_{kind} <= max_{kind} <= {most}, got {low} and {high}")
