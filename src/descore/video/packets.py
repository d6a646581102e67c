"""The packets of a video: which pictures are shown, when, and whether they have to be turned."""

from __future__ import annotations

import contextlib
import gc
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from descore.video.files import VideoError

_UNKNOWN = -(2**63)


@dataclass(frozen=True, slots=True)
class Packets:
    """What the packets of a file tell; the n pictures that are shown come in the order in which they are shown.

    Attributes:
        times: [n] int64, when each picture is shown, in ticks of the stream.
        durations: [n] int64, for how long the file says that each picture is shown, in ticks; 0 if it does not say.
        key_frames: Indices of the pictures at which decoding can begin.
        num_stored: Number of packets of the video stream, with those of pictures that are not shown.
        end: When the last packet of any stream ends, in seconds.
        last_place: Where the last packet of the video stream begins, in bytes.
        matrix: Part of the display matrix that turns and mirrors pictures: x to x, x to y, y to x and y to y; empty if
            they are shown as they are.
    """

    times: NDArray[np.int64]
    durations: NDArray[np.int64]
    key_frames: tuple[int, ...]
    num_stored: int
    end: float
    last_place: int
    matrix: tuple[int, ...]


def has_slots(container: Any) -> bool:
    """Return whether a file is AVI, which has a slot for each picture instead of a time, and empty slots between."""
    return str(container.format.name) == "avi"


def begins_anywhere(container: Any) -> bool:
    """Return whether a file is MPEG-TS, which may begin with pictures that nothing in it can decode."""
    return str(container.format.name) == "mpegts"


def decode_shown(container: Any, stream: Any) -> Iterator[Any]:
    """Decode the frames that are shown, in the order in which they are shown."""
    packets = container.demux(stream)
    if begins_anywhere(container):
        packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, packets)
    return (frame for packet in packets for frame in packet.decode())


def read_packets(path: str | PathLike[str], container: Any, stream: Any, most: int) -> Packets:
    """Read all packets of a file, and decode its first picture.

    Args:
        path: Path of the file, for the error.
        container: The file, opened and not read from yet.
        stream: Its video stream.
        most: Largest number of packets of the video stream.

    Raises:
        VideoError: If the video is encrypted, has more packets than `most`, or has packets without times.
    """
    rows: list[int] = []  # flat, since an object for each of many packets would cost a collection of garbage
    num_stored, end, place, begun, first = 0, 0.0, 0, False, None
    stream.codec_context.thread_count = 1
    for packet in container.demux():
        if not packet.size or packet.is_corrupt:
            continue
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not stream:
            continue
        if packet.has_sidedata("encryption_info") or "enc_key_id" in stream.metadata:
            raise VideoError(path, "its video is encrypted: get a copy without copy protection")
        num_stored, place = num_stored + 1, packet.pos or 0
        if num_stored > most:
            raise VideoError(path, f"expected at most {most} frames, found more: shorten it")
        if not packet.is_discard:
            rows += _known(packet.pts), _known(packet.dts), packet.duration or 0, packet.is_keyframe
        begun = begun or packet.is_keyframe or not begins_anywhere(container)
        first = first or (_decode(stream, packet) if begun else None)
    first = first or _decode(stream, None)
    start, matrix = first or (None, ())
    times, durations, is_key = _shown(path, rows, start, slots=has_slots(container))
    return Packets(times, durations, tuple(np.flatnonzero(is_key).tolist()), num_stored, end, place, matrix)


def _known(time: int | None) -> int:
    return _UNKNOWN if time is None else time


def _decode(stream: Any, packet: Any) -> tuple[int | None, tuple[int, ...]] | None:
    """Decode a frame; return its time in ticks and the part of its display matrix that turns and mirrors.

    Returns:
        None if there is no frame; whether the file can be decoded at all is seen later.
    """
    frame = None
    with contextlib.suppress(av.FFmpegError):
        frame = next(iter(stream.codec_context.decode(packet)), None)
    if frame is None:
        return None
    matrix = frame.side_data.get("DISPLAYMATRIX")
    numbers = struct.unpack_from("=5i", bytes(matrix)) if matrix else ()
    first = frame.pts, (*numbers[:2], *numbers[3:])
    del frame, matrix
    gc.collect(1)  # a frame and its side data refer to each other, and would keep the picture in memory
    return first


def _shown(
    path: str | PathLike[str], rows: list[int], first: int | None, *, slots: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return time, duration and kind of each picture that is shown, in the order in which they are shown."""
    pts, dts, durations, is_key = np.array(rows, np.int64).reshape(-1, 4).T
    durations = durations.clip(0, 2**48)
    # Where FFmpeg gives the pictures of slots no order of their own, it only guesses their times.
    slots = (slots and bool((pts[1:] >= pts[:-1]).all())) or bool((pts == _UNKNOWN).any())
    times = dts if slots else pts
    if (times == _UNKNOWN).any():
        raise VideoError(path, "expected a time in each packet, found none in one: encode it again")
    order = np.argsort(times, kind="stable")
    times, durations, key = times[order], durations[order], is_key[order] > 0
    if not slots and first is not None:
        start = int(np.searchsorted(times, first))
        if not key[:start].any():  # they refer to pictures in front of the file; a key picture would be damaged
            return times[start:], durations[start:], key[start:]
    return times, durations, key
