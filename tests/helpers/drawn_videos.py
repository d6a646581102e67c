"""Videos whose pictures show their own index, and what can be done to them: remuxed, joined, turned, damaged."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, NUM_FRAMES, FPS = 192, 256, 48, 24
Pictures = Iterable[NDArray[np.uint8]]


@functools.cache
def texture(height: int, width: int) -> NDArray[np.float64]:
    coarse = np.random.default_rng(0).integers(0, 60, (height // 4 + 1, width // 2 + 1))
    return np.kron(coarse, np.ones((4, 4)))[:height]


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Draw eight cells, dark or bright, that are the bits of the index, under a texture that moves 2 pixels a frame."""
    bits = (index % 256 >> np.arange(8).reshape(2, 4)) & 1
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 4 // width
    grey = 40 + 120 * bits[rows[:, None], columns] + np.roll(texture(height, width), -2 * index, 1)[:, :width]
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def pictures(count: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Pictures:
    return (picture(index, height, width) for index in range(count))


def encode(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    frames: Pictures | None = None,
    *,
    fps: float = FPS,
    times: Callable[[int], int] | None = None,
    **options: str,
) -> Path:
    """Encode pictures; `times` returns the time of a picture in milliseconds."""
    with av.open(str(path), "w") as target:
        stream: Any = target.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        shown = iter(pictures() if frames is None else frames)
        first = next(shown)
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, values in enumerate(itertools.chain([first], shown)):
            frame = av.VideoFrame.from_ndarray(values, format="rgba" if values.shape[2] == 4 else "rgb24")
            if times:
                frame.pts, frame.time_base = times(index), Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, first: int = 0, shift: int = 0, **container: str) -> Path:
    """Copy packets with their time moved by `shift` frames, and hide the frames before `first` by an edit list."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=container) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        ticks = int((shift - first) / FPS / stream.time_base)
        for packet in old.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copy
                new.mux(packet)
    return path


def join(first: Path, second: Path, path: Path) -> Path:
    """Put the packets of one file behind those of another, under the header of the first."""
    with av.open(str(path), "w") as target:
        copy, time = None, itertools.count()
        for source in (first, second):
            with av.open(str(source)) as old:
                copy = copy or target.add_stream_from_template(old.streams.video[0])
                for packet in old.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = next(time)
                        packet.stream = copy
                        target.mux(packet)
    return path


def turn(path: Path, quarters: int) -> Path:
    """Store pictures lying, with the matrix that sets them upright."""
    encode(path, frames=(np.ascontiguousarray(np.rot90(shown, quarters)) for shown in pictures()))
    data = bytearray(path.read_bytes())
    a, b = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def add_sound(path: Path) -> Path:
    with av.open(str(path), "w") as target:
        sound = target.add_stream("aac", rate=8000, layout="mono")
        for start in range(0, 16384, 1024):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, start
            target.mux(sound.encode(samples))
        target.mux(sound.encode(None))
    return path


def flip(path: Path, count: int, seed: int) -> bytes:
    """Return the bytes of a file with `count` bits of its packets flipped."""
    draw, data = np.random.default_rng([count, seed]), bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos + step for packet in container.demux() if packet.size for step in range(packet.size)]
    for place in draw.choice(places, count):
        data[place] ^= 1 << int(draw.integers(8))
    return bytes(data)
