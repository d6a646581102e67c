"""Video files: the kinds that are read, how one is opened, and the error for those that cannot be read."""

from __future__ import annotations

import os
import shlex
import stat
from os import PathLike
from pathlib import Path
from typing import Any

import av

DAMAGED = "the file is damaged or truncated: copy or encode it again"
"""Cause and remedy of most bad files."""

_MP4_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_BEGINNINGS = (b"\x1a\x45\xdf\xa3", b"FLV", b"GIF87a", b"GIF89a")  # the first is that of Matroska and WebM
_RIFF = (b"AVI ", b"WEBP")
_TRANSPORT_PACKET = 188  # bytes; with the time of arrival in front, 192
_LOCAL_FILES_ONLY = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,flv,gif"}
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".flv", ".gif", ".webp")
"""Endings of the names of video files, by which those of a folder are found."""

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""Endings of the pictures of a folder of frames."""

_ENCODE = "-c:v libx264 -pix_fmt yuv444p"  # which takes an odd size too


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


def open_container(path: str | PathLike[str]) -> Any:
    """Open a file with PyAV; neither its name nor its content can open another file or the network."""
    # An absolute path, since FFmpeg takes text before a colon for a protocol.
    return av.open(os.path.abspath(path), options=_LOCAL_FILES_ONLY, metadata_errors="replace")


def is_webp(path: str | PathLike[str]) -> bool:
    """Return whether a file begins as WebP does, which FFmpeg cannot read if it is animated."""
    return _first_bytes(path, 12)[8:] == b"WEBP"


def check_file(path: str | PathLike[str]) -> None:
    """Check that a path is a regular local file that begins like one of the kinds that are read.

    Raises:
        VideoError: If it is not; the reason says how to make such a file, where that is known.
    """
    if "://" in str(path):
        raise VideoError(path, "expected a local file, got a URL: download it first")
    try:
        mode = os.stat(path).st_mode
        head = _first_bytes(path, 2 * _TRANSPORT_PACKET) if stat.S_ISREG(mode) else b""
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be opened: {error.args[-1]}") from error
    if not stat.S_ISREG(mode):
        raise VideoError(path, _not_regular(Path(path)))
    if not head:
        raise VideoError(path, f"expected a video, got an empty file; {DAMAGED}")
    if not _is_supported(head):
        raise VideoError(path, _not_supported(Path(path), head[:12]))


def _first_bytes(path: str | PathLike[str], number: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(number)


def _is_supported(head: bytes) -> bool:
    return (
        head[4:8] in _MP4_BOXES
        or head.startswith(_BEGINNINGS)
        or (head[:4] == b"RIFF" and head[8:12] in _RIFF)
        or any(head[at : at + 1] == head[at + at + 188 :][:1] == b"G" for at in (0, 4))
    )


def _not_regular(path: Path) -> str:
    suffixes = sorted({file.suffix.lower() for file in path.iterdir()} & PICTURES) if path.is_dir() else []
    if not suffixes:
        return "expected a regular file, got a directory, pipe, socket or device"
    pictures, video = shlex.quote(f"{path}/*{suffixes[0]}"), shlex.quote(f"{path}.mp4")
    command = f"ffmpeg -framerate 8 -pattern_type glob -i {pictures} {_ENCODE} {video}"
    return f"expected a video file, got a folder of pictures; to make one, of 8 frames per second: {command}"


def _not_supported(path: Path, head: bytes) -> str:
    another = "-encoded" if path.suffix.lower() == ".mp4" else ""  # ffmpeg does not write over what it reads
    source, video = shlex.quote(str(path)), f"{path.with_suffix('')}{another}.mp4"
    if head.startswith(b"\x93NUMPY"):
        code = f"import numpy, descore.video.writer as w; w.write_video({video!r}, numpy.load({str(path)!r}), fps=8)"
        return f"expected a video, got an array; to make one, of 8 frames per second: python -c {shlex.quote(code)}"
    return (
        "expected mp4, mov, Matroska, WebM, AVI, MPEG-TS, FLV, GIF or animated WebP, got a file that begins with "
        f"{head!r}; if it is a video: ffmpeg -i {source} {_ENCODE} {shlex.quote(video)}"
    )
