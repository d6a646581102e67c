"""Two decoders behind one signature: decord, which seeks, and PyAV, which reads from the start."""

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

from descore.video.checks import WRITE_AGAIN, VideoError, open_container

Fit = Callable[[NDArray[np.uint8]], Tensor]

_INFO = 32  # FFmpeg's level of "concealing 300 DC, 300 AC, 300 MV errors in P frame"; good files say nothing up to it

# Counted over all threads: where one of them reads a damaged file, another may read its own one twice, alike.
_complaints = ctypes.c_int64()

_NO_COPIES = 1e-6  # share of its frames that decord may replace by a neighbour's; 0 would switch the check off


def decode_with_decord(
    path: str | PathLike[str], num_frames: int, wanted: Sequence[int], fit: Fit
) -> list[Tensor] | None:
    """Decode with decord; None where it cannot, would put copies in place of frames, or has something to say."""
    decord, frames, before = _load_decord(), [], _complaints.value
    try:
        reader = decord.VideoReader(os.path.abspath(path), decord.cpu(0), num_threads=1, fault_tol=_NO_COPIES)
        if len(reader) != num_frames:  # it counts and shows what an edit list hides
            return None
        for index in wanted:
            frame = reader[index].asnumpy()
            if frame.shape[2] != 3:  # it takes the padding of a row for channels, at widths of 16, 24, 48 and 72
                return None
            frames.append(fit(frame))
    except (RuntimeError, AssertionError, UnicodeEncodeError, decord.DECORDError, decord.DECORDLimitReachedError):
        return None
    return frames if _complaints.value == before else None


def _count_complaint(source: int, level: int, text: bytes, values: int) -> None:
    """Hear what decord's FFmpeg logs: nothing else tells of a picture that it patched up."""
    _complaints.value += level <= _INFO


_listen = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_count_complaint)


@functools.cache
def _load_decord() -> Any:
    # Imported here and so after torch: the other way round DataLoader workers freeze (dmlc/decord issue 251).
    import decord
    from decord._ffi.base import _LIB

    _LIB.av_log_set_callback(_listen)
    return decord


def decode_with_pyav(path: str | PathLike[str], wanted: Sequence[int], fit: Fit) -> list[Tensor]:
    """Decode with PyAV, frame by frame from the start.

    Raises:
        VideoError: If the file cannot be decoded, its picture is damaged, or it ends too early.
    """
    chosen, frames, count = set(wanted), [], 0
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for frame in itertools.islice(container.decode(stream), wanted[-1] + 1):
                if frame.is_corrupt:
                    raise VideoError(path, f"its picture is damaged in frame {count}; {WRITE_AGAIN}")
                if count in chosen:
                    picture = frame.to_ndarray(format="rgb24", width=stream.width, height=stream.height)
                    frames.append(fit(np.ascontiguousarray(np.rot90(picture, frame.rotation // 90))))
                count += 1
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise VideoError(path, f"cannot be decoded ({error.strerror}); {WRITE_AGAIN}") from error
    if len(frames) < len(wanted):
        raise VideoError(path, f"expected to decode {wanted[-1] + 1} frames, got {count}; {WRITE_AGAIN}")
    return frames
