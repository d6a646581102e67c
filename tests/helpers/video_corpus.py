"""Strange, damaged and fake videos, and what should become of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.drawn_videos import (
    FPS,
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    Pictures,
    add_sound,
    encode,
    flip,
    join,
    picture,
    pictures,
    remux,
    turn,
)


@dataclass(frozen=True)
class Case:
    """A file and the pictures it shows.

    Attributes:
        name: Name of the case.
        path: Path or URL of the file.
        readable: Whether it must be decoded (True) or refused (False); None allows both.
        first: Index of the first picture that it shows.
        height: Height of the pictures.
        width: Width of the pictures.
    """

    name: str
    path: str
    readable: bool | None = True
    first: int = 0
    height: int = HEIGHT
    width: int = WIDTH


def make(kind: Callable[[Path], Iterable[Case]], folder: Path) -> list[Case]:
    """Make the files of a kind in a new process, since encoders leave much memory behind."""
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        return child.submit(_listed, kind, folder).result()


def _listed(kind: Callable[[Path], Iterable[Case]], folder: Path) -> list[Case]:
    return list(kind(folder))


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


def encode_as(folder: Path, *names: str) -> None:
    """Encode the standard pictures under names of `CODECS`."""
    for name in names:
        codec, pixels, options = CODECS[name]
        encode(folder / name, codec, pixels, **options)


def valid(folder: Path) -> Iterator[Case]:
    """Valid files of many codecs, containers, rates, sizes and rotations; all have to be decoded."""
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


def beyond_limits(folder: Path) -> Iterator[Case]:
    """Valid files that are refused by their header."""
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
    """Files that end early."""
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


def damaged(folder: Path) -> Iterator[Case]:
    """Files with flipped bits, holes, noise and false indices."""
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


# A reader that follows one is noticed: the test listens on the port, and a reader that opens the pipe hangs.
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
    """Texts, playlists, pictures, sound, pipes, devices, broken links and URLs; the port is named by some of them."""
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
