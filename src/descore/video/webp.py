"""Reads animated WebP with Pillow, since FFmpeg cannot."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from descore.video.files import DAMAGED, VideoError

_SHORTEST, _INSTEAD = 10, 100  # milliseconds; browsers show a picture of at most 10 ms for 100 ms, as they do with GIF


def read_webp(path: str | PathLike[str]) -> tuple[int, int, list[int]]:
    """Read the width and the height of an animated WebP, and for how long each picture is shown, in milliseconds.

    Raises:
        VideoError: If the file is truncated or not animated.
    """
    data = Path(path).read_bytes()
    size, at, width, height, durations = 8 + int.from_bytes(data[4:8], "little"), 12, 0, 0, []
    if len(data) < size:
        raise VideoError(path, f"expected {size} bytes as declared in the header, found {len(data)}; {DAMAGED}")
    while at + 24 <= size:
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(data[at + place :][:3], "little") for place in (12, 15))
        if kind == b"ANMF":
            duration = int.from_bytes(data[at + 20 : at + 23], "little")
            durations.append(duration if duration > _SHORTEST else _INSTEAD)
        at += 8 + length + length % 2
    return width, height, durations


def decode_webp(
    path: str | PathLike[str], wanted: Sequence[int], fit: Callable[[NDArray[np.uint8]], Tensor]
) -> list[Tensor]:
    """Decode frames of an animated WebP.

    Args:
        path: Path of the file.
        wanted: Indices of the frames to decode, ascending.
        fit: Function that resizes a frame.

    Raises:
        VideoError: If the file cannot be decoded.
    """
    frames = []
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            for index in wanted:
                image.seek(index)
                frames.append(fit(np.array(image.convert("RGB"))))
    except (OSError, EOFError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise VideoError(path, f"cannot be decoded ({error}); {DAMAGED}") from error
    return frames
