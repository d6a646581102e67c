"""Videos of every writer and container at hand: each frame and its time are those of a full decode in display order."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from descore.video.checks import VideoError
from descore.video.frames import read_video, resize
from descore.video.settings import VideoSettings
from tests.helpers.drawn_videos import picture

HEIGHT, WIDTH, NUM_FRAMES = 64, 96, 40
SETTINGS = VideoSettings(fps=3.0, max_frames=24, min_pixels=1, max_pixels=HEIGHT * WIDTH)
MILLISECOND = Fraction(1, 1000)
MAX_OFF = 1.0  # of 255: the mean difference of two decoders is far below, that of two frames far above

Writer = tuple[str, str, dict[str, str]]
OPEN = {"x264-params": "open-gop=1:keyint=12:bframes=3"}
QUIET = "log-level=none:keyint=12"
GROUP = {"g": "12", "b": "4M"}
WRITERS: dict[str, Writer] = {
    "h264": ("libx264", "yuv420p", {"g": "12"}),
    "h264_open": ("libx264", "yuv420p", OPEN),
    "h264_in_order": ("libx264", "yuv420p", {"g": "12", "bf": "0"}),
    "h264_interlaced": ("libx264", "yuv420p", {"g": "12", "flags": "+ilme+ildct"}),
    "hevc_open": ("libx265", "yuv420p", {"x265-params": QUIET}),
    "hevc": ("libx265", "yuv420p", {"x265-params": f"{QUIET}:open-gop=0"}),
    "mpeg2": ("mpeg2video", "yuv420p", GROUP | {"bf": "2"}),
    "mpeg2_interlaced": ("mpeg2video", "yuv420p", GROUP | {"bf": "2", "flags": "+ilme+ildct"}),
    "mpeg4": ("mpeg4", "yuv420p", GROUP | {"bf": "2"}),
    "mpeg4_in_order": ("mpeg4", "yuv420p", GROUP),
    "msmpeg4": ("msmpeg4", "yuv420p", GROUP),
    "wmv2": ("wmv2", "yuv420p", GROUP),
    "h263": ("flv", "yuv420p", GROUP),
    "vp8": ("libvpx", "yuv420p", GROUP),
    "vp8_hidden": ("libvpx", "yuv420p", {"g": "20", "b": "500k", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9": ("libvpx-vp9", "yuv420p", GROUP),
    "av1": ("libsvtav1", "yuv420p", {"preset": "10"}),
    "prores": ("prores_ks", "yuv422p10le", {}),
    "mjpeg": ("mjpeg", "yuvj420p", {"b": "8M"}),
    "ffv1": ("ffv1", "yuv420p", {}),
    "huffyuv": ("huffyuv", "yuv422p", {}),
    "raw": ("rawvideo", "yuv420p", {}),
    "png": ("png", "rgb24", {}),
    "cinepak": ("cinepak", "rgb24", {}),
    "gif": ("gif", "rgb8", {}),
}
CONTAINERS = ("mp4", "mov", "m4v", "3gp", "mkv", "webm", "avi", "ts", "flv", "gif")
VARIABLE = {
    "uneven": lambda index: index * 30 + index % 3 * 9 + index // 16 * 300,
    "held": lambda index: index * 33 if index < 34 else 1200 + (index - 34) * 1500,
    "late": lambda index: 10_000 + round(index * 1000 / 24),
}
RATES: dict[str, Fraction] = {
    "24": Fraction(24),
    "23.976": Fraction(24000, 1001),
    "29.97": Fraction(30000, 1001),
    "1000": Fraction(1000),
}
# A header of 1000 frames per second over 30 of them; 30 over 10.
FALSE = {"1000 for 30": (1000, lambda index: round(index * 1000 / 30)), "30 for 10": (30, lambda index: index * 100)}
FEW = ("h264", "h264_open", "h264_in_order", "hevc_open", "mpeg2", "mpeg4", "vp9", "gif")


def write(
    path: Path,
    writer: Writer,
    rate: Fraction | int,
    times: Callable[[int], int] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    matrix: list[int] | None = None,
) -> Path:
    """Write drawn pictures; `times` returns the time of each in milliseconds."""
    codec, pixels, options = writer
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if times:
            stream.codec_context.time_base = MILLISECOND
        if matrix:
            stream.set_display_matrix(matrix)
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            if times:
                frame.pts, frame.time_base = times(index), MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy(source: Path, path: Path, *, num_hidden: float = 0, key: int = 0) -> Path:
    """Copy packets from a key picture on; an mp4 file hides the first frames by an edit list."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream: Any = old.streams.video[0]
        target = new.add_stream_from_template(stream)
        shift, num_keys = int(num_hidden / 24 / stream.time_base), 0
        for packet in old.demux(stream):
            num_keys += packet.is_keyframe
            if packet.size and num_keys > key:
                packet.pts, packet.dts = (time - shift for time in (packet.pts, packet.dts))
                packet.stream = target
                new.mux(packet)
    return path


def decode(path: Path) -> tuple[list[NDArray[np.uint8]], list[float] | None]:
    """Decode all frames with PyAV; return them and their times in seconds, or None where FFmpeg only guesses them."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        frames = list(container.decode(stream))
        ticks = [frame.pts for frame in frames]
        shown = [frame.to_ndarray(format="rgb24") for frame in frames]
        guessed = container.format.name == "avi" and stream.codec_context.name == "h264"
    if guessed:
        return shown, None
    return shown, [float((tick - ticks[0]) * stream.time_base) for tick in ticks]


def judge(path: Path, upright: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda shown: shown) -> str:
    """Return "right", or what is wrong with the frames that are read."""
    try:
        shown, times = decode(path)
    except (av.FFmpegError, IndexError):
        return "not playable"
    try:
        frames = read_video(path, SETTINGS, factor=8)
    except VideoError as error:
        return f"refused: {error.reason}"
    if frames.num_source_frames != len(shown):
        return f"{frames.num_source_frames} frames of {len(shown)}"
    for index, pixels in zip(frames.indices, frames.pixels, strict=True):
        whole = torch.from_numpy(upright(shown[index]).copy()).permute(2, 0, 1)[None]
        if (resize(whole, tuple(pixels.shape[1:])).float() - pixels).abs().mean() > MAX_OFF:
            return f"another frame in place of {index}"
    if times is None:
        return "right"
    gaps = np.diff([*times, times[-1] + times[-1] / (len(times) - 1)])
    for index, seconds in zip(frames.indices, frames.seconds, strict=True):
        if abs(seconds - times[index]) > min(gaps[max(index - 1, 0)], gaps[index]) / 2 + 1e-6:
            return f"{seconds:.3f} s for {times[index]:.3f} s"
    return judge_distances(np.array(times), frames.indices, frames.num_source_frames / frames.source_fps)


def judge_distances(times: NDArray[np.float64], indices: tuple[int, ...], duration: float) -> str:
    """Check that no frame lies nearer to its place in time than the one that was taken."""
    if len(indices) < len(times):
        for place, index in zip(np.linspace(0, duration * (1 - 1 / len(times)), len(indices)), indices, strict=True):
            if abs(times[index] - place) > np.abs(times - place).min() + np.diff(times).min() / 2 + 2e-3:
                return f"frame {index} at {times[index]:.3f} s for {place:.3f} s"
    return "right"


def written(folder: Path, writers: tuple[str, ...], containers: tuple[str, ...], times: list[str]) -> Iterator[Path]:
    """Write what can be written of each writer, container and kind of times."""
    for writer, container, kind in itertools.product(writers, containers, times):
        path = folder / f"{writer} {kind}.{container}"
        rate, times_of = FALSE.get(kind, (RATES.get(kind, Fraction(24)), VARIABLE.get(kind)))
        try:
            yield write(path, WRITERS[writer], rate, times_of)
        except (av.FFmpegError, ValueError):
            path.unlink(missing_ok=True)


def copied(folder: Path, writers: tuple[str, ...], containers: tuple[str, ...]) -> Iterator[Path]:
    """Copy packets into other containers: all, those behind an edit list, and those from a later key picture on."""
    for writer, kind in itertools.product(writers, ("24", "uneven", "held")):
        for source in written(folder, (writer,), ("mp4",), [kind]):
            ways = {"whole": {}, "edited": {"num_hidden": 13}, "between": {"num_hidden": 7.5}, "cut": {"key": 1}}
            for container, (way, options) in itertools.product(containers, ways.items()):
                path = folder / f"{writer} {kind} {way}.{container}"
                try:
                    yield copy(source, path, **options)
                except (av.FFmpegError, ValueError):
                    path.unlink(missing_ok=True)


def judge_all(paths: Iterator[Path]) -> dict[str, str]:
    """Return the verdict of each file that is not read right."""
    av.logging.set_level(av.logging.PANIC)
    verdicts = {path.name: judge(path) for path in paths}
    print(dict(Counter(verdict.partition(":")[0] for verdict in verdicts.values())))
    assert verdicts
    return {name: verdict for name, verdict in verdicts.items() if verdict not in {"right", "not playable"}}


def test_frames_and_times_of_common_writers(tmp_path: Path) -> None:
    assert not judge_all(written(tmp_path, FEW, ("mp4", "mkv", "webm", "avi", "gif"), ["29.97", "uneven"]))
    assert not judge_all(written(tmp_path, ("h264", "vp9"), ("mkv", "webm"), [*FALSE]))
    assert not judge_all(copied(tmp_path, ("h264",), ("mp4", "avi", "ts")))


@pytest.mark.parametrize("end", ["mp4", "mkv", "ts"])
def test_pictures_that_refer_to_ones_in_front_of_the_file_are_not_shown(tmp_path: Path, end: str) -> None:
    whole = write(tmp_path / "whole.mkv", WRITERS["hevc_open"], 24)
    assert judge(copy(whole, tmp_path / f"cut.{end}", key=1)) == "right"


@pytest.mark.slow
def test_frames_and_times_of_every_writer_and_container(tmp_path: Path) -> None:
    assert not judge_all(written(tmp_path, tuple(WRITERS), CONTAINERS, [*RATES, *VARIABLE, *FALSE]))


@pytest.mark.slow
def test_frames_and_times_of_copies(tmp_path: Path) -> None:
    assert not judge_all(copied(tmp_path, tuple(WRITERS), CONTAINERS))


@pytest.mark.parametrize("writer", ["h264_in_order", "mpeg4", "mpeg4_in_order"])
@pytest.mark.parametrize("kind", ["uneven", "held"])
def test_times_of_avi_are_those_of_its_slots(tmp_path: Path, writer: str, kind: str) -> None:
    path = write(tmp_path / "slots.avi", WRITERS[writer], Fraction(24), VARIABLE[kind])
    times = np.array([VARIABLE[kind](index) - VARIABLE[kind](0) for index in range(NUM_FRAMES)]) / 1000
    frames = read_video(path, SETTINGS, factor=8)
    is_guessed = [writer == "mpeg4" and index == NUM_FRAMES - 1 for index in frames.indices]
    off = np.abs(np.array(frames.seconds) - times[list(frames.indices)])
    assert off[~np.array(is_guessed)].max() < 0.005


@pytest.mark.parametrize("size", [(63, 95), (17, 33), (16, 16), (24, 48), (64, 2)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    writers = {"mp4": "libx264", "mkv": "ffv1", "webm": "libvpx-vp9", "avi": "ffv1", "flv": "libx264", "gif": "gif"}
    paths = (
        write(tmp_path / f"odd.{end}", (codec, "rgb8" if end == "gif" else "yuv444p", {}), 24, size=size)
        for end, codec in writers.items()
    )
    assert not judge_all(paths)


TURNS: dict[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    (1, 0, 0, 1): lambda shown: shown,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda shown: np.rot90(shown, 2),
    (0, 1, -1, 0): lambda shown: np.rot90(shown, -1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, 1, 0): lambda shown: shown.swapaxes(0, 1),
    (0, -1, -1, 0): lambda shown: np.rot90(shown, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("end", ["mp4", "mkv"])
@pytest.mark.parametrize("matrix", TURNS)
def test_pictures_are_turned_and_mirrored_as_they_are_shown(
    tmp_path: Path, matrix: tuple[int, int, int, int], end: str
) -> None:
    a, b, c, d = (value << 16 for value in matrix)
    path = write(tmp_path / f"turned.{end}", WRITERS["h264"], 24, matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30])
    with av.open(str(path)) as container:
        kept = bool(next(container.decode(video=0)).side_data.get("DISPLAYMATRIX"))
    assert kept or end == "mkv" or matrix == (1, 0, 0, 1)  # Matroska has no place for four of them
    assert judge(path, TURNS[matrix] if kept else lambda shown: shown) == "right"


@pytest.mark.parametrize("durations", [[100] * 12, [120] * 12, [50, 50, 400] * 4, [100] * 11 + [2000]])
def test_gif_and_webp_are_read_with_the_durations_of_their_pictures(tmp_path: Path, durations: list[int]) -> None:
    pictures = [Image.fromarray(picture(index, HEIGHT, WIDTH)) for index in range(len(durations))]
    for end, options in (("gif", {}), ("webp", {"lossless": True})):
        path = tmp_path / f"moving.{end}"
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **options)
        frames = read_video(path, SETTINGS, factor=8)
        starts = np.cumsum([0, *durations[:-1]]) / 1000
        assert frames.num_source_frames / frames.source_fps == pytest.approx(sum(durations) / 1000)
        assert frames.seconds == pytest.approx(starts[list(frames.indices)])
        assert judge_distances(starts, frames.indices, sum(durations) / 1000) == "right"
        drawn = torch.stack([torch.from_numpy(picture(index, HEIGHT, WIDTH)) for index in frames.indices])
        assert (drawn.permute(0, 3, 1, 2).float() - frames.pixels).abs().mean() < (8 if end == "gif" else 0.01)
