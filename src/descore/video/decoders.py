"""Two decoders: decord, which seeks, and PyAV, which decodes from the start and reads what decord cannot."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from descore.video.checks import VideoHeader
from descore.video.files import DAMAGED, VideoError, open_container
from descore.video.packets import decode_shown

Fit = Callable[[NDArray[np.uint8]], Tensor]
"""Resizes one decoded frame, [H, W, 3] uint8, to [1, 3, height, width] uint8."""

# FFmpeg logs "concealing 300 DC, 300 AC, 300 MV errors in P frame" at this level, and nothing up to it for good files.
_INFO = 32

# Counts the messages of all threads. A message about another thread's file only costs a second decoding, with PyAV.
_num_messages = ctypes.c_int64()

_NO_COPIES = 1e-6  # share of frames that decord may replace by copies of a neighbour; 0 would turn this check off


def decode_with_decord(
    path: str | PathLike[str], header: VideoHeader, wanted: Sequence[int], fit: Fit
) -> list[Tensor] | None:
    """Decode frames with decord; return None if it fails, would give other frames, or logs a problem.

    Args:
        path: Path of the video.
        header: Number of frames and indices of the key frames, as the checks have found them.
        wanted: Indices of the frames to decode, ascending.
        fit: Function that resizes a frame.
    """
    decord, frames, before = _load_decord(), [], _num_messages.value
    try:
        reader = decord.VideoReader(os.path.abspath(path), decord.cpu(0), num_threads=1, fault_tol=_NO_COPIES)
        if len(reader) != header.num_frames:  # decord also counts frames that an edit list hides
            return None
        # decord numbers key frames as they are stored. Behind one that is shown later, it would be off after each seek.
        if tuple(reader.get_key_indices()) != header.key_frames:
            return None
        for index in wanted:
            frame = reader[index].asnumpy()
            if frame.shape[2] != 3:  # decord takes the padding of a row for channels, at widths of 16, 24, 48 and 72
                return None
            frames.append(fit(frame))
    except (RuntimeError, AssertionError, UnicodeEncodeError, decord.DECORDError, decord.DECORDLimitReachedError):
        return None
    return frames if _num_messages.value == before else None


def _count_message(source: int, level: int, text: bytes, values: int) -> None:
    """Count the log messages of decord's FFmpeg, which are the only sign that it concealed a damaged frame."""
    _num_messages.value += level <= _INFO


_log_callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_count_message)


@functools.cache
def _load_decord() -> Any:
    # Imported here, and so after torch: in the other order, DataLoader workers hang (dmlc/decord issue 251).
    import decord
    from decord._ffi.base import _LIB

    _LIB.av_log_set_callback(_log_callback)
    return decord


def decode_with_pyav(path: str | PathLike[str], header: VideoHeader, wanted: Sequence[int], fit: Fit) -> list[Tensor]:
    """Decode frames with PyAV, one by one from the start.

    Args:
        path: Path of the video.
        header: Display matrix, as the checks have found it.
        wanted: Indices of the frames to decode, ascending.
        fit: Function that resizes a frame.

    Raises:
        VideoError: If the file cannot be decoded, a frame is damaged, or the file ends too early.
    """
    chosen, frames, count = set(wanted), [], 0
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for frame in itertools.islice(decode_shown(container, stream), wanted[-1] + 1):
                if frame.is_corrupt:
                    raise VideoError(path, f"its picture is damaged in frame {count}; {DAMAGED}")
                if count in chosen:
                    picture = frame.to_ndarray(format="rgb24", width=stream.width, height=stream.height)
                    frames.append(fit(np.ascontiguousarray(_upright(picture, header.matrix))))
                count += 1
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise VideoError(path, f"cannot be decoded ({error.strerror}); {DAMAGED}") from error
    if len(frames) < len(wanted):
        raise VideoError(path, f"expected to decode {wanted[-1] + 1} frames, got {count}; {DAMAGED}")
    return frames


def _upright(picture: NDArray[np.uint8], matrix: tuple[int, ...]) -> NDArray[np.uint8]:
    """Turn and mirror a picture, [H, W, 3], as its display matrix says: one of eight ways that keep it a rectangle."""
    across, across_to_down, down_to_across, down = matrix or (1, 0, 0, 1)
    if abs(across_to_down) > abs(across):  # a quarter turn swaps the sides
        picture, across, down = picture.swapaxes(0, 1), down_to_across, across_to_down
    picture = picture[:, ::-1] if across < 0 else picture
    return picture[::-1] if down < 0 else picture
