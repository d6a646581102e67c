"""Videos that are no video file: frames in memory, the bytes of a file, and folders of pictures."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from descore.types import Frames
from descore.video.files import PICTURES, VideoError
from descore.video.frames import VideoReader

# Pillow goes by the content, and its readers of other formats start programs, as EPS does.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

Pictures = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""Frames of one video, each [H, W, 3] uint8 RGB."""


def read_memory(video: Any, fps: float | None, reader: VideoReader, read_file: Callable[[str], Frames]) -> Frames:
    """Read a video of any kind that is not the path of a video file.

    Pixels give the frames that a lossless file of the same pixels and frame rate gives.

    Args:
        video: An array or a tensor of frames, [T, 3, H, W] or [T, H, W, 3], uint8 or of numbers from 0 to 1; a list of
            PIL images or of single frames; the bytes of a video file; or the path of a folder of pictures, in the order
            of the numbers in their names.
        fps: Frame rate in frames per second, which all but the bytes need.
        reader: Samples and resizes the frames.
        read_file: Reads a video file.

    Raises:
        VideoError: If the video cannot be read; its name says of what kind it is.

    >>> from descore.video.settings import VideoSettings
    >>> reader = VideoReader(VideoSettings(fps=2.0), factor=16, even=2)
    >>> frames = read_memory(torch.zeros(16, 3, 64, 64, dtype=torch.uint8), 8.0, reader, read_file=reader)
    >>> frames.pixels.shape, frames.indices
    (torch.Size([4, 3, 64, 64]), (0, 5, 10, 15))
    """
    name = _name(video)
    if isinstance(video, bytes | bytearray | memoryview):
        return _read_bytes(name, video, read_file)
    if fps is None or not 0 < fps < np.inf:
        raise VideoError(name, f"expected its frame rate, such as fps=8, got fps={fps!r}")
    try:
        pictures = pictures_of(Path(video)) if isinstance(video, str | os.PathLike) else as_pictures(video)
        return reader.sample(name, pictures, fps)
    except (ValueError, TypeError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise error if isinstance(error, VideoError) else VideoError(name, str(error)) from error


def as_pictures(video: Any) -> Pictures:
    """Return frames in memory as [T, H, W, 3] uint8, or as a list of [H, W, 3] uint8.

    Raises:
        ValueError: If they have another type or shape, are not from 0 to 1, or the frames differ in shape.

    >>> as_pictures(np.full((2, 3, 8, 8), 0.5)).shape, as_pictures([Image.new("RGB", (8, 4))])[0].shape
    ((2, 8, 8, 3), (4, 8, 3))
    """
    if isinstance(video, list | tuple):
        frames = [np.asarray(one.convert("RGB")) if isinstance(one, Image.Image) else _array(one) for one in video]
        if shapes := {frame.shape for frame in frames[1:]} - {frames[0].shape} if frames else {()}:
            raise ValueError(
                f"expected frames of one shape, got {sorted({frames[0].shape, *shapes}) if frames else 'none'}"
            )
        array = np.stack(frames)
    else:
        array = _array(video)
    if array.ndim != 4 or not array.size or 3 not in {array.shape[1], array.shape[3]}:
        raise ValueError(f"expected frames [T, 3, H, W] or [T, H, W, 3], got {list(array.shape)}")
    if array.shape[1] == array.shape[3]:
        raise ValueError(f"frames {list(array.shape)} can be read in two ways: give them larger")
    return _bytes_of(array if array.shape[3] == 3 else array.transpose(0, 2, 3, 1))


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if isinstance(value, np.ndarray):
        return value
    raise TypeError(f"expected an array, a tensor or a PIL image of frames, got {type(value).__name__}")


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"expected frames in uint8 or in numbers from 0 to 1, got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"expected numbers from 0 to 1, got {low:g} to {high:g}")
    return (array * 255).round().astype(np.uint8)


def _read_bytes(name: str, content: bytes | bytearray | memoryview, read_file: Callable[[str], Frames]) -> Frames:
    with tempfile.NamedTemporaryFile(prefix="descore-") as file:
        file.write(content)
        file.flush()
        try:
            return read_file(file.name)
        except VideoError as error:
            raise VideoError(name, error.reason.replace(file.name, name)) from error


def pictures_of(folder: Path) -> Pictures:
    """Return the pictures of a folder, in the order of the numbers in their names.

    Raises:
        ValueError: If it has none.
    """
    names = sorted((path for path in folder.iterdir() if path.suffix.lower() in PICTURES), key=_numbers)
    if not names:
        raise ValueError("expected a folder of pictures, found none")
    return _Pictures(names)


class _Pictures(Sequence[NDArray[np.uint8]]):
    """Pictures of a folder, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        with Image.open(self.paths[index], formats=_FORMATS) as image:
            return np.asarray(image.convert("RGB"))


def _numbers(path: Path) -> list[tuple[int, str]]:
    """Return what a name is ordered by: its numbers as numbers, so that frame 10 comes after frame 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _name(video: Any) -> str:
    if isinstance(video, str | os.PathLike):
        return os.fspath(video)
    if isinstance(video, bytes | bytearray | memoryview):
        return f"a video of {len(video):,} bytes"
    return "frames in memory"
