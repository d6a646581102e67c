"""Writes frames to an H.264 file, with the same bytes for the same frames."""

from __future__ import annotations

from fractions import Fraction
from os import PathLike, fspath
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CONTAINER = {"movflags": "+faststart", "fflags": "+bitexact"}
# Bitexact keeps time stamps out of the file. With several threads, or with its macroblock tree, x264 sometimes writes
# different bytes for the same frames.
_X264 = "threads=1:lookahead-threads=1:mbtree=0"
_ENCODER = {"preset": "superfast", "flags": "+bitexact", "threads": "1", "x264-params": _X264}


def write_video(path: str | PathLike[str], frames: Tensor | NDArray[np.uint8], fps: float, *, crf: int = 18) -> None:
    """Write frames to an H.264 mp4 file (yuv420p) with its index at the start; equal input gives equal bytes.

    Args:
        path: File to write; an existing file is replaced.
        frames: [T, H, W, 3] or [T, 3, H, W] uint8 RGB frames, with even H and W.
        fps: Frame rate, in frames per second.
        crf: Constant rate factor of x264, from 0 (best quality) to 51 (smallest file).

    Raises:
        ValueError: If the frames have another type or shape, or an odd height or width.

    >>> import tempfile
    >>> from descore.video.checks import check_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(f"{folder}/grey.mp4", torch.full((16, 3, 32, 64), 128, dtype=torch.uint8), fps=8)
    ...     check_video(f"{folder}/grey.mp4")
    VideoHeader(fps=8.0, num_frames=16, height=32, width=64)
    """
    pixels = _channels_last(frames)
    with av.open(fspath(path), "w", format="mp4", options=_CONTAINER) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream("libx264", rate=rate, options=_ENCODER | {"crf": str(crf)})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _channels_last(frames: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = frames.cpu().numpy() if isinstance(frames, torch.Tensor) else frames
    if array.dtype != np.uint8 or array.ndim != 4 or not len(array) or 3 not in {array.shape[1], array.shape[3]}:
        found = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"expected uint8 frames [T, H, W, 3] or [T, 3, H, W] with T at least 1, got {found}")
    if array.shape[3] != 3:
        array = array.transpose(0, 2, 3, 1)
    height, width = array.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"expected an even height and width (yuv420p), got {height}x{width}: crop or pad by one pixel")
    return np.ascontiguousarray(array)
