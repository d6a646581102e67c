"""Checks of a video file before its frames are decoded, and what they find: its size, its rate and its times."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from os import PathLike
from typing import Any

import av
import numpy as np

from descore.video.files import DAMAGED, VideoError, check_file, is_webp, open_container
from descore.video.gif import ends_whole
from descore.video.packets import Packets, has_slots, read_packets
from descore.video.timeline import measure_times
from descore.video.webp import read_webp

__all__ = ["VideoError", "VideoHeader", "check_video", "read_header"]

MAX_SOURCE_PIXELS = 7680 * 4320
"""Largest source frame, in pixels."""

MAX_SOURCE_FRAMES = 36_000
"""Largest number of frames of a source video: ten minutes at 60 frames per second."""

MAX_SOURCE_SECONDS = 600.0
"""Longest source video, in seconds."""

MAX_MISSING_FRAMES = 1
"""Number of declared frames that may be missing before a file counts as truncated."""

_AUDIO_PADDING = 0.2  # seconds of codec padding: part of the declared duration, but in no packet
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_DECORD_READS = (_MP4, "matroska,webm")  # in AVI, decord seeks to wrong places


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """Frame rate, number of frames and frame size of a video.

    Attributes:
        fps: Average frame rate, in frames per second.
        num_frames: Number of frames that are shown, without frames that an edit list hides.
        height: Height of a frame in pixels, before any rotation for display.
        width: Width of a frame in pixels, before any rotation for display.
        times: When each frame is shown, in seconds after the first; empty if frame i is shown at i / fps.
        key_frames: Indices of the frames at which decoding can begin, as decord must have them to find the right
            frames; empty if decord would give wrong ones.
        matrix: Part of the display matrix that turns and mirrors frames: x to x, x to y, y to x and y to y; empty if
            they are shown as they are.
    """

    fps: float
    num_frames: int
    height: int
    width: int
    times: tuple[float, ...] = field(default=(), repr=False)
    key_frames: tuple[int, ...] = field(default=(), repr=False)
    matrix: tuple[int, ...] = field(default=(), repr=False)


def check_video(path: str | PathLike[str]) -> VideoHeader:
    """Check the kind, first bytes, header and packets of a file, without decoding more than its first frame.

    Args:
        path: Path of the file.

    Returns:
        Header of the video, with its frames counted and its rate measured from the packets.

    Raises:
        VideoError: If the path is not a regular local file, the file is of no kind that is read, it has no video
            stream, it exceeds a limit of this module, it is truncated or encrypted, or it has fewer than two frames.
    """
    check_file(path)
    if is_webp(path):
        return _check_webp(path)
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise VideoError(path, "expected a video stream with a known codec, found none")
            _check_limits(path, stream.width, stream.height, _num_declared(container, stream), _seconds(container))
            packets = read_packets(path, container, stream, MAX_SOURCE_FRAMES)
            return _measure(path, container, stream, packets)
    except av.FFmpegError as error:
        raise VideoError(path, f"its container cannot be read ({error.strerror}): {DAMAGED}") from error


def _check_webp(path: str | PathLike[str]) -> VideoHeader:
    width, height, durations = read_webp(path)
    _check_number(path, len(durations))
    _check_limits(path, width, height, len(durations), sum(durations) / 1000)
    lengths = np.array(durations, np.int64)
    fps, times = measure_times(np.cumsum(lengths) - lengths, lengths, Fraction(1, 1000), ())
    return VideoHeader(fps, len(durations), height, width, times)


def _check_limits(path: str | PathLike[str], width: int, height: int, num_frames: int, seconds: float) -> None:
    if not (width and height):
        raise VideoError(path, f"expected a frame size in the header, found none; {DAMAGED}")
    if width * height > MAX_SOURCE_PIXELS:
        raise VideoError(
            path, f"expected at most {MAX_SOURCE_PIXELS} pixels a frame, got {width}x{height}: scale it down"
        )
    if num_frames > MAX_SOURCE_FRAMES:
        raise VideoError(path, f"expected at most {MAX_SOURCE_FRAMES} frames, got {num_frames}: shorten it")
    if seconds > MAX_SOURCE_SECONDS:
        raise VideoError(path, f"expected at most {MAX_SOURCE_SECONDS:g} seconds, got {seconds:.1f}: shorten it")


def _measure(path: str | PathLike[str], container: Any, stream: Any, packets: Packets) -> VideoHeader:
    """Measure rate and times from the packets, since a header may lie and a truncated file declares what it lost.

    Raises:
        VideoError: If frames are missing, there are too few, or they last too long.
    """
    _check_whole(path, _num_declared(container, stream), packets.num_stored)
    count = len(packets.times)
    _check_number(path, count)
    span = float((int(packets.times[-1]) - int(packets.times[0])) * stream.time_base)
    _check_limits(path, stream.width, stream.height, count, span)
    if not span:
        raise VideoError(path, f"expected frames one after another, got all at one time; {DAMAGED}")
    declared = stream.average_rate, stream.base_rate
    fps, times = measure_times(packets.times, packets.durations, stream.time_base, declared)
    if not _num_declared(container, stream):
        lost = _seconds(container) - packets.end - (_AUDIO_PADDING if container.streams.audio else 0)
        longest = float(int(np.diff(packets.times).max()) * stream.time_base)  # so long the last frame may be shown
        _check_whole(path, packets.num_stored + round(lost / longest), packets.num_stored)
    if container.format.name == "gif" and not ends_whole(path, packets.last_place):
        raise VideoError(path, f"expected the last picture of the GIF whole, found a part of it; {DAMAGED}")
    _check_limits(path, stream.width, stream.height, count, count / fps)
    is_for_decord = container.format.name in _DECORD_READS and not packets.matrix
    key_frames = packets.key_frames if is_for_decord else ()
    return VideoHeader(fps, count, stream.height, stream.width, times, key_frames, packets.matrix)


def _num_declared(container: Any, stream: Any) -> int:
    """Return the number of packets that a header declares; 0 if it declares none, or counts slots."""
    if has_slots(container) or not stream.frames:
        return 0
    return len(stream.index_entries) if container.format.name == _MP4 else int(stream.frames)  # without edited out ones


def _check_number(path: str | PathLike[str], num_frames: int) -> None:
    if num_frames < 2:
        raise VideoError(path, f"expected at least 2 frames, found {num_frames}: still images are not supported")


def _check_whole(path: str | PathLike[str], declared: int, stored: int) -> None:
    if declared - stored > MAX_MISSING_FRAMES:
        raise VideoError(path, f"expected {declared} frames as declared in the header, found {stored}; {DAMAGED}")


def _seconds(container: Any) -> float:
    """Return the declared duration from the start of the first frame, in seconds; 0 if none is declared."""
    return float((container.duration or 0) / av.time_base)


def read_header(path: str) -> VideoHeader:
    """Read the declared header of a video file; unlike `check_video`, without counting packets.

    Raises:
        VideoError: If the file is of no kind that is read, or declares no frame size or no frame rate.
    """
    check_file(path)
    if is_webp(path):
        return _check_webp(path)
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            if stream is None or not (stream.width and stream.height and stream.average_rate):
                raise VideoError(path, "expected a frame size and a frame rate in the header, found none")
            fps = float(stream.average_rate)
            count = stream.frames or round(fps * (container.duration or 0) / av.time_base)
            return VideoHeader(fps, count, stream.height, stream.width)
    except av.FFmpegError as error:
        raise VideoError(path, f"its container cannot be read ({error.strerror})") from error
