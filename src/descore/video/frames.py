"""Reads sampled, resized frames of a video: with decord, with PyAV where decord would fail, and WebP with Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from descore.types import Frames
from descore.video.checks import VideoError, VideoHeader, check_video
from descore.video.decoders import Fit, decode_with_decord, decode_with_pyav
from descore.video.files import is_webp
from descore.video.settings import Sampler, VideoSettings
from descore.video.webp import decode_webp

__all__ = ["VideoError", "VideoReader", "frame_size", "read_video", "resize", "sample_indices", "target_size"]

MAX_ASPECT = 200
"""Largest ratio between the sides of a frame."""


@dataclass(frozen=True, slots=True)
class VideoReader:
    """Function that reads videos for one backbone, see `read_video`.

    Its repr is part of the key of the frame cache, so it must show everything that the frames depend on except the file
    and the code.

    Attributes:
        settings: Sampling rate and budgets.
        factor: Height and width become multiples of this number of pixels.
        even: The number of frames becomes a multiple of this number.
        size: Height and width of every frame, for a backbone that takes no other; None keeps the aspect ratio.
    """

    settings: VideoSettings
    factor: int
    even: int
    size: tuple[int, int] | None = None

    def __call__(self, path: str) -> Frames:
        """Read one video.

        Raises:
            VideoError: If the file cannot be read.
        """
        return read_video(path, self.settings, factor=self.factor, even=self.even, size=self.size)

    def sample(self, name: str, frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], fps: float) -> Frames:
        """Sample and resize frames in memory, as those of a file are.

        Args:
            name: Name of the video, for errors.
            frames: All frames of the video, each [H, W, 3] uint8 RGB.
            fps: Frame rate, in frames per second.

        Raises:
            VideoError: If a side is more than 200 times as long as the other, or the frames differ in shape.
        """
        indices = sample_indices(len(frames), fps, self.settings, self.even)
        wanted = sorted(set(indices))
        fit = partial(_fit, name, settings=self.settings, factor=self.factor, size=self.size)
        pixels = _gather(name, indices, wanted, [fit(frames[index]) for index in wanted])
        return Frames(pixels, tuple(indices), fps, len(frames))


def read_video(
    path: str | PathLike[str],
    settings: VideoSettings,
    *,
    factor: int = 32,
    even: int = 2,
    size: tuple[int, int] | None = None,
) -> Frames:
    """Check a video, sample its frames, decode and resize them.

    Args:
        path: Path of a local file: mp4, mov, Matroska, WebM, AVI, MPEG-TS, FLV, GIF or animated WebP.
        settings: Sampling rate and budgets.
        factor: Height and width become multiples of this number of pixels: patch size times merge size of the backbone.
        even: The number of frames becomes a multiple of this number: the temporal patch size of the backbone.
        size: Height and width of every frame, whatever its aspect ratio; None keeps the ratio within the budgets.

    Returns:
        Sampled frames, [T, 3, H, W] uint8 RGB, and where they come from.

    Raises:
        VideoError: If the file fails `check_video`, cannot be decoded, has frames that the decoder reports as damaged,
            changes its frame size, or has a side more than 200 times as long as the other.
        MemoryError: If there is too little memory.

    >>> import tempfile
    >>> from descore.video.writer import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/clip.mp4"
    ...     write_video(path, torch.zeros(48, 64, 64, 3, dtype=torch.uint8), fps=24)  # two seconds
    ...     frames = read_video(path, VideoSettings(fps=2.0))
    >>> frames.pixels.shape, frames.indices
    (torch.Size([4, 3, 64, 64]), (0, 16, 31, 47))
    """
    header = check_video(path)
    indices = sample_indices(header.num_frames, header.fps, settings, even, header.times)
    wanted = sorted(set(indices))

    # Each frame is resized as soon as it is decoded, so that only one frame is held at its source size.
    found = _decode(path, header, wanted, partial(_fit, path, settings=settings, factor=factor, size=size))
    pixels = _gather(path, indices, wanted, found)
    times = tuple(header.times[index] for index in indices) if header.times else ()
    return Frames(pixels, tuple(indices), header.fps, header.num_frames, times)


def _fit(
    name: str | PathLike[str],
    frame: NDArray[np.uint8],
    *,
    settings: VideoSettings,
    factor: int,
    size: tuple[int, int] | None,
) -> Tensor:
    try:
        size = size or frame_size(frame.shape[0], frame.shape[1], factor, settings)
    except ValueError as error:
        raise VideoError(name, str(error)) from error
    return resize(torch.from_numpy(frame).permute(2, 0, 1)[None], size)


def _gather(name: str | PathLike[str], indices: Sequence[int], wanted: list[int], found: Sequence[Tensor]) -> Tensor:
    """Put the frames that were wanted at the places of their indices."""
    shapes = {"x".join(map(str, frame.shape[2:])): None for frame in found}
    if len(shapes) > 1:
        raise VideoError(name, f"expected frames of one shape, got {' and '.join(shapes)}: split the video there")
    return torch.cat([found[wanted.index(index)] for index in indices])


def _decode(path: str | PathLike[str], header: VideoHeader, wanted: Sequence[int], fit: Fit) -> list[Tensor]:
    if is_webp(path):
        return decode_webp(path, wanted, fit)
    found = decode_with_decord(path, header, wanted, fit) if header.key_frames else None
    return found or decode_with_pyav(path, header, wanted, fit)


def sample_indices(
    num_frames: int, fps: float, settings: VideoSettings, even: int, times: Sequence[float] = ()
) -> list[int]:
    """Choose frames by the sampler of the settings; "ends" is the rule of Qwen3-VL's `sample_frames`.

    The number of sampled frames is the duration times `settings.fps`, clamped to the limits of the settings and to the
    number of frames, then rounded to the nearest multiple of `even`. If the video has fewer frames than that, or
    `settings.max_frames` is below `even`, the last frame is repeated. At a variable rate, a frame that is shown for
    long is repeated too.

    Args:
        num_frames: Number of frames of the video.
        fps: Average frame rate of the video, in frames per second.
        settings: Sampling rate, limits and sampler.
        even: The number of sampled frames becomes a multiple of this number.
        times: When each frame is shown, in seconds after the first; not given if the rate is constant.

    Returns:
        Indices of the sampled frames, ascending.

    >>> sample_indices(48, 24.0, VideoSettings(), even=2)
    [0, 16, 31, 47]
    >>> sample_indices(48, 24.0, VideoSettings(sampler="starts"), even=2)
    [0, 12, 24, 36]
    >>> sample_indices(3, 24.0, VideoSettings(), even=2)
    [0, 1, 2, 2]
    >>> sample_indices(48, 24.0, VideoSettings(min_frames=1, max_frames=1), even=2)  # as a picture
    [0, 0]
    >>> sample_indices(5, 1.25, VideoSettings(fps=1.0), even=2, times=[0.0, 0.1, 0.2, 0.3, 3.2])
    [0, 3, 4, 4]
    """
    wished = int(num_frames / fps * settings.fps)
    count = min(max(wished, settings.min_frames), settings.max_frames, num_frames)
    count = max(min((count + even // 2) // even, settings.max_frames // even), 1) * even
    places = _places(num_frames, min(count, num_frames, settings.max_frames), settings.sampler)
    if times and count < num_frames:  # a place in time, and of all frames the nearest
        middles = (np.asarray(times[1:]) + times[:-1]) / 2
        indices: list[int] = np.searchsorted(middles, places / fps).tolist()
    else:
        indices = places.round().astype(int).tolist()
    return indices + indices[-1:] * (count - len(indices))


def _places(num_frames: int, count: int, sampler: Sampler) -> NDArray[np.float64]:
    """Place some frames in a video, in units of its frames."""
    if sampler == "starts":
        return np.floor(np.arange(count) * num_frames / count)
    places = np.linspace(0, num_frames - 1, count)
    return np.floor(places) if sampler == "ends_floor" else places


def frame_size(height: int, width: int, factor: int, settings: VideoSettings) -> tuple[int, int]:
    """Compute the size to which a frame is resized, by the rule of the settings; both sides are multiples of `factor`.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        factor: Number of pixels that both sides become multiples of.
        settings: Rule, and limits of the area.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: If the ratio is kept and one side is more than 200 times as long as the other.

    >>> frame_size(480, 832, 28, VideoSettings())  # 480 x 832 is 1.99 times the largest area
    (336, 588)
    >>> frame_size(480, 832, 28, VideoSettings(resize="square"))  # the largest area is that of 448 x 448
    (448, 448)
    >>> frame_size(480, 832, 28, VideoSettings(resize="longest_side"))  # 448 / 832 of 480 is 258.5
    (252, 448)
    """
    if settings.resize == "smart":
        return target_size(height, width, factor, settings.min_pixels, settings.max_pixels)
    longest = math.isqrt(settings.max_pixels)
    if settings.resize == "square":
        return (_multiple(longest, factor, math.floor),) * 2
    _check_aspect(height, width)
    scale = min(longest / max(height, width), 1.0)
    return _multiple(height * scale, factor, round), _multiple(width * scale, factor, round)


def target_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Compute the size to which a frame is resized, as Qwen3-VL's `smart_resize` does for one frame.

    Both sides become multiples of `factor`, the area is within the budget, and the aspect ratio is kept up to rounding.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        factor: Number of pixels that both sides become multiples of.
        min_pixels: Smaller frames are enlarged to about this area.
        max_pixels: Larger frames are shrunk to at most this area.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: If one side is more than 200 times as long as the other.

    >>> target_size(480, 832, factor=32, min_pixels=4096, max_pixels=200_704)
    (320, 576)
    """
    if min(height, width) < factor:
        scale = factor / min(height, width)
        height, width = int(height * scale), int(width * scale)
    _check_aspect(height, width)
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

    This uses PyTorch's integer kernel, as the backbone's own processor does on CPU. The kernel rounds between its two
    passes, as PIL does, and is many times faster than float32.

    Args:
        pixels: [T, 3, H, W] uint8 frames.
        size: Height and width of the result, in pixels.

    Returns:
        [T, 3, height, width] uint8 frames, contiguous.

    >>> resize(torch.zeros(2, 3, 64, 48, dtype=torch.uint8), (32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """
    if tuple(pixels.shape[-2:]) != size:
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    return pixels.contiguous()


def _check_aspect(height: int, width: int) -> None:
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(
            f"expected a side at most {MAX_ASPECT} times as long as the other, got {height}x{width}: crop it"
        )


def _multiple(length: float, factor: int, rounding: Callable[[float], int]) -> int:
    return max(rounding(length / factor), 1) * factor
