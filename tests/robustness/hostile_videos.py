"""Exotic and malformed videos, made from pictures that show their own number: what should become of each is known."""

from __future__ import annotations

import functools
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH, NUM_FRAMES, FPS = 192, 256, 48, 24
Pictures = Iterable[NDArray[np.uint8]]


@dataclass(frozen=True)
class Case:
    """A file, what should become of it, and the pictures it shows."""

    name: str
    path: str
    readable: bool | None = True  # None: right or refused, as long as it is not wrong
    first: int = 0
    height: int = HEIGHT
    width: int = WIDTH


@functools.cache
def texture(height: int, width: int) -> NDArray[np.float64]:
    coarse = np.random.default_rng(0).integers(0, 60, (height // 4 + 1, width // 2 + 1))
    return np.kron(coarse, np.ones((4, 4)))[:height]


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Eight cells, dark or bright, are the bits of the index; a texture moves over them by 2 pixels a frame."""
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
    """Encode pictures; `times` gives each one's time in milliseconds."""
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


QUIET = {"x265-params": "log-level=none"}
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", {}),
    "h264.mkv": ("libx264", "yuv420p", {}),
    "h264.avi": ("libx264", "yuv420p", {"bf": "0"}),
    "h264_10bit.mp4": ("libx264", "yuv420p10le", {}),
    "h264_444.mp4": ("libx264", "yuv444p", {}),
    "h264_rgb.mp4": ("libx264rgb", "rgb24", {"crf": "10"}),
    "h264_full_range.mp4": ("libx264", "yuvj420p", {}),
    "h264_interlaced.mp4": ("libx264", "yuv420p", {"flags": "+ilme+ildct"}),
    "h264_open_gop.mp4": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=12:bframes=8:b-pyramid=normal"}),
    "hevc.mp4": ("libx265", "yuv420p", QUIET),
    "hevc_10bit.mp4": ("libx265", "yuv420p10le", QUIET),
    "vp8.webm": ("libvpx", "yuv420p", {"b": "2M"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"b": "2M"}),
    "vp9_alpha.webm": ("libvpx-vp9", "yuva420p", {"b": "2M", "auto-alt-ref": "0"}),
    "av1.mp4": ("libsvtav1", "yuv420p", {"preset": "10"}),
    "av1_10bit.webm": ("libsvtav1", "yuv420p10le", {"preset": "10"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"b": "4M"}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {"b": "8M"}),
    "prores.mov": ("prores_ks", "yuv422p10le", {}),
    "prores_alpha.mov": ("prores_ks", "yuva444p10le", {"profile": "4444"}),
    "qtrle_alpha.mov": ("qtrle", "argb", {}),
    "png_alpha.mov": ("png", "rgba", {}),
}


def exotic(folder: Path) -> Iterator[Case]:
    """Valid files; what is refused of them is beyond a limit."""
    for name, (codec, pixels, options) in CODECS.items():
        alpha = np.full((HEIGHT, WIDTH, 1), 200, np.uint8)
        frames = (np.concatenate([shown, alpha], 2) if "alpha" in name else shown for shown in pictures())
        yield Case(name, str(encode(folder / name, codec, pixels, frames, **options)))
    good = folder / "h264.mp4"
    made = {
        "index_first.mp4": remux(good, folder / "index_first.mp4", movflags="+faststart"),
        "fragmented.mp4": remux(good, folder / "fragmented.mp4", movflags="frag_keyframe+empty_moov"),
        "starts_at_10_s.mp4": remux(good, folder / "starts_at_10_s.mp4", shift=10 * FPS),
        "starts_at_10_s.mkv": remux(good, folder / "starts_at_10_s.mkv", shift=10 * FPS),
        "variable_rate.mp4": encode(folder / "variable_rate.mp4", times=lambda i: i * 30 + i % 3 * 9 + i // 16 * 300),
        "variable_rate.mkv": encode(folder / "variable_rate.mkv", times=lambda i: i * 30 + i % 3 * 9 + i // 16 * 300),
        "1000_fps.mp4": encode(folder / "1000_fps.mp4", fps=1000),
        "1_fps.mp4": encode(folder / "1_fps.mp4", fps=1),
        "9_minutes.mp4": encode(folder / "9_minutes.mp4", fps=NUM_FRAMES / 540),
    }
    yield from (Case(name, str(path)) for name, path in made.items())
    for quarters in (1, 2, 3):
        yield Case(f"rotated_{quarters * 90}.mp4", str(turn(folder / f"rotated_{quarters * 90}.mp4", quarters)))
    yield Case("edit_list.mp4", str(remux(good, folder / "edit_list.mp4", first=13)), first=13)
    sizes = {"16x16": (16, 16, 12), "8K": (4320, 7680, 3), "narrow": (16, 512, 12), "two_frames": (HEIGHT, WIDTH, 2)}
    for name, (height, width, count) in (sizes | {"odd": (193, 255, 48), "odd_height": (97, 130, 48)}).items():
        path = encode(folder / f"{name}.mp4", "libx264", "yuv444p", pictures(count, height, width), preset="ultrafast")
        yield Case(path.name, str(path), height=height, width=width)
    beyond: dict[str, tuple[Pictures, float]] = {
        "one_frame.mp4": (pictures(1), FPS),
        "3_hours.mp4": (pictures(), NUM_FRAMES / 10800),
        "bomb_of_36_megapixels.mp4": (pictures(2, 4352, 8192), FPS),
        "bomb_of_40000_frames.mp4": ([np.zeros((64, 64, 3), np.uint8)] * 40_000, 100.0),
        "ribbon.mp4": (pictures(4, 2, 1024), FPS),
    }
    for name, (frames, fps) in beyond.items():
        yield Case(name, str(encode(folder / name, frames=frames, fps=fps, preset="ultrafast")), False)


def write(path: Path, data: bytes, readable: bool | None = False) -> Case:
    path.write_bytes(data)
    return Case(path.name, str(path), readable)


def cut_off(folder: Path) -> Iterator[Case]:
    for kind, source in (
        ("_index_first.mp4", "index_first.mp4"),
        ("_index_last.mp4", "h264.mp4"),
        (".mkv", "h264.mkv"),
    ):
        whole = (folder / source).read_bytes()
        for percent in (1, 10, 25, 50, 75, 90, 99):
            # At 99 % the Matroska file has lost its list of key frames only.
            readable = None if (kind, percent) == (".mkv", 99) else False
            yield write(folder / f"cut_{percent}{kind}", whole[: len(whole) * percent // 100], readable)


def flip(path: Path, count: int, seed: int) -> bytes:
    """Flip bits of the packets."""
    draw, data = np.random.default_rng([count, seed]), bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos + step for packet in container.demux() if packet.size for step in range(packet.size)]
    for place in draw.choice(places, count):
        data[place] ^= 1 << int(draw.integers(8))
    return bytes(data)


def damaged(folder: Path) -> Iterator[Case]:
    for source in ("h264.mp4", "h264.mkv", "mpeg4.avi", "av1.mp4"):
        for count in (1, 10, 1000):
            yield write(folder / f"flipped_{count}_{source}", flip(folder / source, count, 0), None)
    whole = (folder / "index_first.mp4").read_bytes()
    start, middle, chunk = whole.index(b"mdat") + 4, len(whole) * 3 // 4, whole.index(b"stco") + 12
    noise = np.random.default_rng(0).bytes(len(whole))
    contents = {
        "hole": whole[:middle] + bytes(2000) + whole[middle + 2000 :],
        "zeros": whole[:start] + bytes(len(whole) - start),
        "noise": whole[:start] + noise,
        "header_only": whole[:start],
        "without_header": whole[start:],
        "noise_only": noise,
        "empty": b"",
        "sizes_of_samples": whole.replace(b"stsz\0\0\0\0\0\0\0\0", b"stsz\0\0\0\0\x7f\xff\xff\xff"),
        "offset_of_a_chunk": whole[:chunk] + b"\x0f\xff\xff\xff" + whole[chunk + 4 :],
        "unknown_codec": whole.replace(b"avc1", b"zzz1"),
    }
    yield from (write(folder / f"{name}.mp4", data) for name, data in contents.items())
    harmless = {
        "index_twice": whole + whole[:start],
        "number_of_samples": whole.replace(b"stts\0\0\0\0\0\0\0\1", b"stts\0\0\0\0\xff\xff\xff\xff"),
        "number_of_chunks": whole.replace(b"stco\0\0\0\0\0\0\0\1", b"stco\0\0\0\0\0\xff\xff\xff"),
        "no_parameter_sets": whole.replace(b"avcC\1", b"avcC\0"),
        "external_data": whole.replace(b"url \0\0\0\1", b"alis\0\0\0\0"),
    }
    yield from (write(folder / f"{name}.mp4", data, None) for name, data in harmless.items())
    other = encode(folder / "other.avi", "mpeg4", frames=pictures(height=96), b="4M")
    yield Case("two_shapes.avi", str(join(folder / "mpeg4.avi", other, folder / "two_shapes.avi")), False)


# Who followed one would be seen: the port is listened to, and who opens the pipe waits for ever.
TEXTS = {
    "text": "a red ball rolls to the left\n",
    "hls": "#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "hls_of_a_file": "#EXTM3U\n#EXTINF:2,\n{folder}/pipe.mp4\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>\n',
    "concat": "ffconcat version 1.0\nfile {folder}/pipe.mp4\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
    "list": "http://127.0.0.1:{port}/a.mp4\n",
}


def no_videos(folder: Path, port: int) -> Iterator[Case]:
    for name, text in TEXTS.items():
        yield write(folder / f"{name}.mp4", text.format(port=port, folder=folder).encode())
    for kind in ("JPEG", "PNG", "GIF"):
        Image.fromarray(picture(0)).save(folder / f"{kind}.mp4", format=kind)
        yield Case(f"{kind}.mp4", str(folder / f"{kind}.mp4"), False)
    yield Case("sound_only.mp4", str(add_sound(folder / "sound_only.mp4")), False)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    for name in ("pipe.mp4", "folder.mp4", "dangling.mp4", "loop.mp4", "device.mp4", "missing.mp4"):
        yield Case(name, str(folder / name), False)
    if os.geteuid():  # root may read everything
        case = write(folder / "forbidden.mp4", (folder / "h264.mp4").read_bytes())
        Path(case.path).chmod(0)
        yield case
    for url in (f"http://127.0.0.1:{port}/a.mp4", f"file://{folder}/pipe.mp4", f"tcp://127.0.0.1:{port}"):
        yield Case(url.partition("//")[0], url, False)


def make_files(folder: Path, port: int) -> dict[str, list[Case]]:
    """Make all files, by kind; nothing may be read of what they name, and nobody connect to the port."""
    return {
        "exotic": list(exotic(folder)),
        "cut off": list(cut_off(folder)),
        "damaged": list(damaged(folder)),
        "no video": list(no_videos(folder, port)),
    }
