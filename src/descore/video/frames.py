"""Video file -> frames: which ones, at what size, read by decord and, where it cannot or complains, by PyAV."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from descore.types import Frames
from descore.video.checks import VideoError, check_video
from descore.video.decoders import decode_with_decord, decode_with_pyav

__all__ = ["VideoError", "VideoReader", "VideoSettings", "read_video", "resize", "sample_indices", "target_size"]

MAX_ASPECT = 200
"""How many times as long as the other one side of a frame may be."""


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """How a video becomes frames. The same values hold for every stage and for scoring, and travel in the export.

    Args:
        fps: Frames to sample per second of video.
        min_frames: Fewest frames to sample from one video, as far as it has them.
        max_frames: Most frames to sample from one video; a longer one is sampled more thinly.
        min_pixels: A frame with fewer pixels is enlarged to about this many.
        max_pixels: A frame with more pixels is shrunk to at most this many.

    Raises:
        ValueError: If a value is not positive, or a minimum is above its maximum.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 64
    min_pixels: int = 4096
    max_pixels: int = 200_704

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise ValueError(f"expected fps above 0, got {self.fps}")
        if not 1 <= self.min_frames <= self.max_frames:
            raise ValueError(f"expected 1 <= min_frames <= max_frames, got {self.min_frames} and {self.max_frames}")
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise ValueError(f"expected 1 <= min_pixels <= max_pixels, got {self.min_pixels} and {self.max_pixels}")


@dataclass(frozen=True, slots=True)
class VideoReader:
    """`read_video` for one backbone; its repr says all that the frames depend on, but for the file and the code."""

    settings: VideoSettings
    factor: int
    even: int

    def __call__(self, path: str) -> Frames:
        """Read one video; see `read_video`."""
        return read_video(path, self.settings, factor=self.factor, even=self.even)


def read_video(path: str | PathLike[str], settings: VideoSettings, *, factor: int = 32, even: int = 2) -> Frames:
    """Check, sample, decode and resize one video.

    Args:
        path: A local mp4, mov, Matroska, WebM or AVI file.
        settings: Sampling rate and budgets.
        factor: Height and width become multiples of it: patch size times merge size of the backbone.
        even: The number of frames becomes a multiple of it: temporal patch size of the backbone.

    Raises:
        VideoError: If the file is refused by `check_video`, cannot be decoded, is damaged as far as its decoder can
            tell, or is more than 200 times as long one way as the other.
        MemoryError: If there is too little memory.
    """
    header = check_video(path)
    indices = sample_indices(header.num_frames, header.fps, settings, even)
    wanted = sorted(set(indices))

    def fit(frame: NDArray[np.uint8]) -> Tensor:
        try:
            size = target_size(frame.shape[0], frame.shape[1], factor, settings.min_pixels, settings.max_pixels)
        except ValueError as error:
            raise VideoError(path, str(error)) from error
        return resize(torch.from_numpy(frame).permute(2, 0, 1)[None], size)

    # `fit` takes each frame as it is decoded, so that only one is held at its source size.
    found = decode_with_decord(path, header.num_frames, wanted, fit) or decode_with_pyav(path, wanted, fit)
    shapes = {"x".join(map(str, frame.shape[2:])): None for frame in found}
    if len(shapes) > 1:
        raise VideoError(path, f"expected frames of one shape, got {' and '.join(shapes)}: cut it where it changes")
    pixels = torch.cat([found[wanted.index(index)] for index in indices])
    return Frames(pixels, tuple(indices), header.fps, header.num_frames)


def sample_indices(num_frames: int, fps: float, settings: VideoSettings, even: int) -> list[int]:
    """Choose frames uniformly from the first to the last, as Qwen3-VL's `sample_frames` does.

    Their number is duration times `settings.fps`, clamped to the settings and to what exists, then rounded to the
    nearest multiple of `even`. Where the video has fewer than that, its last frame is repeated.

    Args:
        num_frames: Frames of the video.
        fps: Frames per second of the video.
        settings: Sampling rate and budgets.
        even: The number of sampled frames is a multiple of it.

    >>> sample_indices(48, 24.0, VideoSettings(), even=2)
    [0, 16, 31, 47]
    >>> sample_indices(3, 24.0, VideoSettings(), even=2)
    [0, 1, 2, 2]
    """
    wished = int(num_frames / fps * settings.fps)
    count = min(max(wished, settings.min_frames), settings.max_frames, num_frames)
    count = max(min((count + even // 2) // even, settings.max_frames // even), 1) * even
    indices: list[int] = np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int).tolist()
    return indices + indices[-1:] * (count - len(indices))


def target_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Find the size nearest to a frame's whose sides are multiples of `factor` and whose area is within the budget.

    Qwen3-VL's `smart_resize` for one frame: the aspect ratio is kept up to the rounding.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: If one side is more than 200 times as long as the other.
    """
    if min(height, width) < factor:
        scale = factor / min(height, width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"expected sides that differ at most {MAX_ASPECT} times, got {height}x{width}: crop it")
    rounded = round(height / factor) * factor, round(width / factor) * factor
    area = rounded[0] * rounded[1]
    if area > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return _multiple(height / shrink, factor, math.floor), _multiple(width / shrink, factor, math.floor)
    if area < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return _multiple(height * grow, factor, math.ceil), _multiple(width * grow, factor, math.ceil)
    return rounded


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames with antialiased bicubic interpolation.

    PyTorch's integer kernel, which the backbone's own processor also uses on CPU. It rounds between its two passes, as
    PIL does, and is many times faster than float32.

    Args:
        pixels: [T, 3, H, W] uint8.
        size: Height and width to reach, in pixels.

    Returns:
        [T, 3, height, width] uint8, contiguous.
    """
    if tuple(pixels.shape[-2:]) != size:
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    return pixels.contiguous()


def _multiple(length: float, factor: int, rounding: Callable[[float], int]) -> int:
    return max(rounding(length / factor), 1) * factor
