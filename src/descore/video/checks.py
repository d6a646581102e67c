"""Checks of a video file before a decoder reads it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from os import PathLike
from typing import Any

import av

MAX_SOURCE_PIXELS = 7680 * 4320
"""Largest source frame, in pixels."""

MAX_SOURCE_FRAMES = 36_000
"""Largest number of frames of a source video: ten minutes at 60 frames per second."""

MAX_SOURCE_SECONDS = 600.0
"""Longest source video, in seconds."""

MAX_MISSING_FRAMES = 1
"""Number of declared frames that may be missing before a file counts as truncated."""

_AUDIO_PADDING = 0.2  # seconds of codec padding: part of the declared duration, but in no packet
_MP4_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_MATROSKA = b"\x1a\x45\xdf\xa3"
_LOCAL_FILES_ONLY = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,matroska,webm,avi"}
DAMAGED = "the file is damaged or truncated: copy or encode it again"
"""Cause and remedy of most bad files."""


class VideoError(ValueError):
    """Raised for a video that cannot be read.

    Attributes:
        path: Path of the file.
        reason: What was expected, what was found, and what to do.
    """

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(str(path), reason)  # both, because pickle rebuilds an exception from its args
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """Frame rate, number of frames and frame size of a video.

    Attributes:
        fps: Average frame rate, in frames per second.
        num_frames: Number of frames that are shown, without frames that an edit list hides.
        height: Height of a frame in pixels, before any rotation for display.
        width: Width of a frame in pixels, before any rotation for display.
    """

    fps: float
    num_frames: int
    height: int
    width: int


def check_video(path: str | PathLike[str]) -> VideoHeader:
    """Check the kind, first bytes, header and packets of a file, without decoding it.

    Args:
        path: Path of the file.

    Returns:
        Header of the video, with its frames counted from the packets.

    Raises:
        VideoError: If the path is not a regular local file, the file is not mp4, mov, Matroska, WebM or AVI, it has no
            video stream, it exceeds a limit of this module, it is truncated, or it has fewer than two frames.
    """
    _check_file(path)
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise VideoError(path, "expected a video stream with a known codec, found none")
            _check_limits(path, container, stream)
            return _count_frames(path, container, stream)
    except av.FFmpegError as error:
        raise VideoError(path, f"its container cannot be read ({error.strerror}): {DAMAGED}") from error


def open_container(path: str | PathLike[str]) -> Any:
    """Open a file with PyAV; neither its name nor its content can open another file or the network."""
    # An absolute path, since FFmpeg takes text before a colon for a protocol.
    return av.open(os.path.abspath(path), options=_LOCAL_FILES_ONLY, metadata_errors="replace")


def _check_file(path: str | PathLike[str]) -> None:
    if "://" in str(path):
        raise VideoError(path, "expected a local file, got a URL: download it first")
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
        head = _first_bytes(path) if regular else b""
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be opened: {error.args[-1]}") from error
    if not regular:
        raise VideoError(path, "expected a regular file, got a directory, pipe, socket or device")
    if not head:
        raise VideoError(path, f"expected a video, got an empty file; {DAMAGED}")
    if not (head[4:8] in _MP4_BOXES or head.startswith(_MATROSKA) or (head[:4], head[8:]) == (b"RIFF", b"AVI ")):
        raise VideoError(path, f"expected mp4, mov, Matroska, WebM or AVI, got a file that begins with {head!r}")


def _first_bytes(path: str | PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read(12)


def _check_limits(path: str | PathLike[str], container: Any, stream: Any) -> None:
    width, height, seconds = stream.width, stream.height, _seconds(container)
    if not (width and height and stream.average_rate):
        raise VideoError(path, f"expected a frame size and a frame rate in the header, found none; {DAMAGED}")
    if width * height > MAX_SOURCE_PIXELS:
        raise VideoError(
            path, f"expected at most {MAX_SOURCE_PIXELS} pixels a frame, got {width}x{height}: scale it down"
        )
    if stream.frames > MAX_SOURCE_FRAMES:
        raise VideoError(path, f"expected at most {MAX_SOURCE_FRAMES} frames, got {stream.frames}: shorten it")
    if seconds > MAX_SOURCE_SECONDS:
        raise VideoError(path, f"expected at most {MAX_SOURCE_SECONDS:g} seconds, got {seconds:.1f}: shorten it")


def _count_frames(path: str | PathLike[str], container: Any, stream: Any) -> VideoHeader:
    """Count the packets of a file, since a truncated file still declares the frames that it lost.

    Raises:
        VideoError: If frames are missing, or there are too many or too few.
    """
    fps, stored, hidden, end = float(stream.average_rate), 0, 0, 0.0
    for packet in container.demux():
        if not packet.size or packet.is_corrupt:
            continue
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is stream:
            stored += 1
            hidden += packet.is_discard
        if stored > MAX_SOURCE_FRAMES:
            raise VideoError(path, f"expected at most {MAX_SOURCE_FRAMES} frames, found more: shorten it")
    lost_seconds = _seconds(container) - end - (_AUDIO_PADDING if container.streams.audio else 0)
    declared = stream.frames or stored + round(fps * lost_seconds)
    if declared - stored > MAX_MISSING_FRAMES:
        raise VideoError(path, f"expected {declared} frames as declared in the header, found {stored}; {DAMAGED}")
    if stored - hidden < 2:
        raise VideoError(path, f"expected at least 2 frames, found {stored - hidden}: still images are not supported")
    return VideoHeader(fps, stored - hidden, stream.height, stream.width)


def _seconds(container: Any) -> float:
    """Return the declared duration from the start of the first frame, in seconds; 0 if none is declared."""
    return float((container.duration or 0) / av.time_base)


def read_header(path: str) -> VideoHeader:
    """Read the declared header of a video file; unlike `check_video`, without counting packets.

    Raises:
        VideoError: If the container cannot be read, or declares no frame size or no frame rate.
    """
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
