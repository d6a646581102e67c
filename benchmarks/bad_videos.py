"""Exotic and malformed videos: is each decoded right, or refused with its reason, and does anything pile up?

    python -m benchmarks.bad_videos --repeat 2000

The files are made by this script. Every picture of theirs shows its index and a moving texture, so that a wrong frame,
a turned one and a damaged one all differ from what was drawn. They are read as `Features.read` reads, in a child
process with a time limit. The exit code is 1 if a file came out wrong, hung the decoder or crashed it.

The second table counts what becomes of files with flipped bits: HEVC and VP9 carry nothing that would tell of most.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from benchmarks.harness import in_fresh_process, result_table
from descore.decoding import Decoder
from descore.types import Frames
from descore.video import VideoError, VideoReader, VideoSettings, resize

READER = VideoReader(VideoSettings(fps=8.0, max_frames=32, max_pixels=320 * 320), factor=32, even=2)
HEIGHT, WIDTH, NUM_FRAMES, FPS = 192, 256, 48, 24
MOST_OFF = 8.0
"""Largest difference, of 255, between the mean of a block of 16x16 pixels and that of what was drawn there."""

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


# Files


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
    "hevc.mp4": ("libx265", "yuv420p", {}),
    "hevc_10bit.mp4": ("libx265", "yuv420p10le", {}),
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
    """Files that are valid; what is refused of them is beyond a limit."""
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


def malformed(folder: Path, port: int) -> Iterator[Case]:
    """Files, and things that are none, from which no picture may come that was not drawn."""

    def write(name: str, data: bytes, readable: bool | None = False) -> Case:
        (folder / name).write_bytes(data)
        return Case(name, str(folder / name), readable)

    first, last = (folder / "index_first.mp4").read_bytes(), (folder / "h264.mp4").read_bytes()
    whole = (folder / "h264.mkv").read_bytes()
    for percent in (1, 10, 25, 50, 75, 90, 99):
        yield write(f"cut_{percent}_index_first.mp4", first[: len(first) * percent // 100])
        yield write(f"cut_{percent}_index_last.mp4", last[: len(last) * percent // 100])
        # At 99 % the file has lost its list of key frames only.
        yield write(f"cut_{percent}.mkv", whole[: len(whole) * percent // 100], None if percent == 99 else False)
    for source in ("h264.mp4", "h264.mkv", "mpeg4.avi", "av1.mp4"):
        for count in (1, 10, 1000):
            yield write(f"flipped_{count}_{source}", flip(folder / source, count, 0), None)
    start, middle, noise = first.index(b"mdat") + 4, len(first) * 3 // 4, np.random.default_rng(0).bytes(len(first))
    yield write("hole.mp4", first[:middle] + bytes(2000) + first[middle + 2000 :])
    yield write("zeros.mp4", first[:start] + bytes(len(first) - start))
    yield write("noise.mp4", first[:start] + noise)
    yield write("header_only.mp4", first[:start])
    yield write("without_header.mp4", first[start:])
    yield write("index_twice.mp4", first + first[:start], None)
    yield write("sizes_of_samples.mp4", first.replace(b"stsz\0\0\0\0\0\0\0\0", b"stsz\0\0\0\0\x7f\xff\xff\xff"))
    yield write("number_of_samples.mp4", first.replace(b"stts\0\0\0\0\0\0\0\1", b"stts\0\0\0\0\xff\xff\xff\xff"), None)
    yield write("number_of_chunks.mp4", first.replace(b"stco\0\0\0\0\0\0\0\1", b"stco\0\0\0\0\0\xff\xff\xff"), None)
    place = first.index(b"stco") + 12
    yield write("offset_of_a_chunk.mp4", first[:place] + b"\x0f\xff\xff\xff" + first[place + 4 :])
    yield write("no_parameter_sets.mp4", first.replace(b"avcC\1", b"avcC\0"), None)
    yield write("unknown_codec.mp4", first.replace(b"avc1", b"zzz1"))
    for name, text in TEXTS.items():
        yield write(name, text.format(port=port, folder=folder).encode())
    yield write("empty.mp4", b"")
    yield write("noise_only.mp4", noise)
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
        case = write("forbidden.mp4", first)
        Path(case.path).chmod(0)
        yield case
    for url in (f"http://127.0.0.1:{port}/a.mp4", f"file://{folder}/h264.mp4", f"tcp://127.0.0.1:{port}"):
        yield Case(url.partition("//")[0], url, False)


TEXTS = {
    "text.mp4": "a red ball rolls to the left\n",
    "hls.mp4": "#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "dash.mp4": '<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>\n',
    "concat.mp4": "ffconcat version 1.0\nfile {folder}/h264.mp4\n",
    "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
    "list.mp4": "http://127.0.0.1:{port}/a.mp4\n",
}


def make_files(folder: Path, port: int) -> dict[str, list[Case]]:
    return {"exotic": list(exotic(folder)), "malformed": list(malformed(folder, port))}


def flip(path: Path, count: int, seed: int) -> bytes:
    """Flip bits of the packets."""
    draw, data = np.random.default_rng([count, seed]), bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos + step for packet in container.demux() if packet.size for step in range(packet.size)]
    for place in draw.choice(places, count):
        data[place] ^= 1 << int(draw.integers(8))
    return bytes(data)


# Reading


def difference(case: Case, frames: Frames) -> float:
    """How far the frames are from what was drawn, where they are farthest."""
    drawn = [picture(index + case.first, case.height, case.width) for index in frames.indices]
    size = (frames.pixels.shape[2], frames.pixels.shape[3])
    expected = torch.cat([resize(torch.from_numpy(shown).permute(2, 0, 1)[None], size) for shown in drawn])
    return float(F.avg_pool2d(frames.pixels.float() - expected.float(), 16).abs().max())


def judge(case: Case, decode: Decoder) -> tuple[str, str, float]:
    """Verdict, what there is to say about it, and the seconds it took."""
    start = time.perf_counter()
    try:
        frames = decode(case.path)
    except VideoError as error:
        seconds, reason = time.perf_counter() - start, error.reason
        verdict = "hang" if "took more than" in reason else "crash" if "died of it" in reason else "refused"
        return "WRONG: refused" if verdict == "refused" and case.readable else verdict, reason, seconds
    seconds, off = time.perf_counter() - start, difference(case, frames)
    right = off < MOST_OFF and case.readable is not False
    return "right" if right else "WRONG: read", f"{len(frames.indices)} frames, off by {off:.1f}", seconds


def damage(path: Path, decode: Decoder) -> tuple[str, ...]:
    """How many of 60 copies with flipped bits are refused, right all the same, and wrong without a sign of it."""
    counts: Counter[str] = Counter()
    copy = path.with_stem("copy")
    for seed in range(20):
        for count in (1, 10, 100):
            copy.write_bytes(flip(path, count, seed))
            counts[judge(Case(path.name, str(copy), None), decode)[0]] += 1
    return path.name, *(str(counts.pop(kind, 0)) for kind in ("refused", "right", "WRONG: read")), str(counts.total())


def piles(repeat: int, paths: list[str], decode: Decoder) -> Iterator[tuple[str, ...]]:
    """Memory, threads and open files of this process and of its children, while files are read again and again."""
    for done in range(1, repeat + 1):
        with contextlib.suppress(VideoError):
            decode(paths[done % len(paths)])
        if done in {repeat // 10, repeat}:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for owner, pids in (("parent", ["self"]), ("children", children)):
                texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
                memory, threads = (
                    sum(int(text.split(f"{key}:")[1].split()[0]) for text in texts) for key in ("VmRSS", "Threads")
                )
                files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
                yield str(done), owner, str(len(pids)), f"{memory / 1024:.0f}", str(threads), str(files)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=0, help="then read good files and bad ones this often")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit for one file")
    options = parser.parse_args()
    decode, counts = Decoder(READER, seconds=options.seconds), Counter[str]()
    start_table = functools.partial(result_table, words=("file", "result", "reason", "processes"), markdown=True)
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as trap:
        groups = in_fresh_process(make_files, Path(name), trap.getsockname()[1])  # encoders leave much memory behind
        read = start_table("file", "result", "reason", "s")
        for group, cases in groups.items():
            for case in cases:
                verdict, detail, seconds = judge(case, decode)
                counts[f"{group}: {verdict}"] += 1
                read.add_row(case.name, verdict, detail, f"{seconds:.2f}")
        trap.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            trap.accept()
            counts["WRONG: connected to the network"] += 1
        flipped = start_table("file", "refused", "right", "damaged", "lost")
        for source in ("h264.mp4", "mpeg4.avi", "av1.mp4", "hevc.mp4", "vp9.webm"):
            flipped.add_row(*damage(Path(name, source), decode))
        console = Console(width=200)
        console.print(read, dict(counts), flipped)
        for group, cases in groups.items() if options.repeat else ():
            paths = [case.path for case in cases if case.readable is (group == "exotic") and "8K" not in case.name]
            piled = start_table("reads", "processes", "number", "MB", "threads", "files")
            for row in piles(options.repeat, paths, decode):
                piled.add_row(*row)
            console.print(f"{options.repeat} reads of {len(paths)} {group} files", piled)
    return int(any(bad in verdict for verdict in counts for bad in ("WRONG", "hang", "crash")))


if __name__ == "__main__":
    sys.exit(main())
