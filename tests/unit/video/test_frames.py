"""Real files, whose every frame has a grey level of its own: a wrong frame shows."""

import gc
import json
import os
import pickle
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize

from descore.video import checks as video_checks
from descore.video import decoders
from descore.video import frames as video
from descore.video.checks import VideoError
from descore.video.frames import frame_size, read_video, resize, sample_indices, target_size
from descore.video.settings import VideoSettings
from descore.video.timeline import measure_times
from descore.video.writer import write_video
from tests.helpers.drawn_videos import join

SMALL = VideoSettings(fps=4.0, min_pixels=1024, max_pixels=48 * 48)
MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # clockwise, as mp4 has them


def grey(num_frames: int, height: int = 96, width: int = 96) -> np.ndarray:
    levels = np.arange(num_frames, dtype=np.uint8) * 12 + 20
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def noise(num_frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 64, 64, 3), dtype=np.uint8)


def indices_shown(pixels: torch.Tensor) -> list[int]:
    return ((pixels.float().mean(dim=(1, 2, 3)) - 20) / 12).round().int().tolist()


def encode(path: Path, frames: np.ndarray, codec: str, pix_fmt: str = "", movflags: str = "", **options: str) -> Path:
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=8, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt or ("yuv444p" if frames.shape[1] % 2 else "yuv420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def copy_packets(source: Path, target: Path, seconds: Callable[[float], float]) -> Path:
    """Show each picture at another time; what comes out below 0 is hidden by an edit list."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.size:
                packet.pts, packet.dts = (
                    round(seconds(float(ticks * stream.time_base)) / stream.time_base)
                    for ticks in (packet.pts, packet.dts)
                )
                packet.stream = copy
                new.mux(packet)
    return target


def packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux() if packet.size]


def write_sound(path: Path, frames: np.ndarray | None = None) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=60) if frames is not None else None
        sound = container.add_stream("aac", rate=8000, layout="mono")
        if video is not None:
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
            pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
            container.mux([packet for picture in [*pictures, None] for packet in video.encode(picture)])
        for start in range(0, 8192, 1024):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, start
            container.mux(sound.encode(samples))
        container.mux(sound.encode(None))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", grey(16), fps=8)
    return tmp_path / "clip.mp4"


# Sampling and sizes


@pytest.mark.parametrize(
    ("num_frames", "fps", "even", "expected"),
    [
        (48, 24.0, 2, [0, 16, 31, 47]),  # 2 s at 2 fps: 4 frames, 47 / 3 = 15.67 apart
        (60, 24.0, 2, [0, 12, 24, 35, 47, 59]),  # 2.5 s: 5 frames, to the next even number 6
        (10, 30.0, 2, [0, 3, 6, 9]),  # a third of a second: the least number, 4
        (3, 24.0, 2, [0, 1, 2, 2]),  # 3 frames, to the next even number 4
        (3, 24.0, 4, [0, 1, 2, 2]),
        (2, 24.0, 4, [0, 1, 1, 1]),
        (2, 24.0, 1, [0, 1]),
    ],
)
def test_sampling_by_hand(num_frames, fps, even, expected):
    assert sample_indices(num_frames, fps, VideoSettings(), even) == expected


@pytest.mark.parametrize("num_frames", [16, 17, 48, 81, 121, 240])
@pytest.mark.parametrize("count", [8, 16])
def test_samplers_are_the_published_rules(num_frames, count):
    def sample(name: str) -> list[int]:
        settings = VideoSettings(min_frames=count, max_frames=count, sampler=name)
        return sample_indices(num_frames, 24.0, settings, even=2)

    assert sample("ends") == np.linspace(0, num_frames - 1, count).round().astype(int).tolist()  # VideoAlign
    assert sample("ends_floor") == np.linspace(0, num_frames - 1, count).astype(int).tolist()  # UnifiedReward-Think
    assert sample("starts") == [int(index * num_frames / count) for index in range(count)]  # UnifiedReward 2.0


def test_a_sampler_at_a_variable_rate_places_frames_in_time():
    """Place 2 of 5 at 1.25 frames per second is second 1.6, to which 0.3 is nearer than 3.2."""
    settings = VideoSettings(min_frames=2, max_frames=2, sampler="starts")
    assert sample_indices(5, 1.25, settings, even=2, times=[0.0, 0.1, 0.2, 0.3, 3.2]) == [0, 3]


def test_a_sampler_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="expected sampler among ends, ends_floor, starts; got 'random'"):
        VideoSettings(sampler="random")


def test_long_videos_are_sampled_more_thinly():
    indices = sample_indices(24 * 100, 24.0, VideoSettings(max_frames=9), even=2)
    assert indices == [0, 343, 685, 1028, 1371, 1714, 2056, 2399]  # 8 of at most 9, 2399 / 7 = 342.71 apart


@pytest.mark.parametrize("num_frames", [4, 5, 17, 121, 1000, 5000])
@pytest.mark.parametrize("fps", [8.0, 23.976, 30.0])
def test_sampling_equals_the_backbones(num_frames, fps):
    settings = VideoSettings(fps=2.0, min_frames=4, max_frames=64)
    theirs = Qwen3VLVideoProcessor.sample_frames(settings, SimpleNamespace(total_num_frames=num_frames, fps=fps))
    assert sample_indices(num_frames, fps, settings, even=1) == theirs.tolist()


def test_size_by_hand():
    # 720x1280 is 4.59 times the budget, so both sides shrink by 2.143 to 336.0 and 597.3, then down to multiples of 32.
    assert target_size(720, 1280, 32, 4096, 200_704) == (320, 576)
    assert target_size(96, 96, 16, 1024, 48 * 48) == (48, 48)
    assert target_size(50, 70, 16, 1, 10_000) == (48, 64)
    with pytest.raises(ValueError, match="32x12800"):
        target_size(10, 4000, 32, 4096, 200_704)


def test_size_equals_the_backbones():
    for height, width in np.random.default_rng(0).geometric(1 / 500, (1000, 2)).tolist():
        if max(height, width) < 200 * min(height, width):
            theirs = smart_resize(2, height, width, 2, 32, min_pixels=2 * 50_000, max_pixels=2 * 200_704)
            assert target_size(height, width, 32, 50_000, 200_704) == theirs


@pytest.mark.parametrize("size", [(48, 64), (130, 200), (100, 40)])
def test_resize_equals_pil(size):
    image = Image.fromarray(noise(1)[0]).resize((150, 90), Image.Resampling.BICUBIC)
    theirs = torch.from_numpy(np.array(image.resize(size[::-1], Image.Resampling.BICUBIC))).permute(2, 0, 1)
    ours = resize(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], size)[0]
    off = (ours.int() - theirs.int()).abs()
    assert ours.is_contiguous()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.02


def test_resize_to_the_same_size_changes_nothing():
    pixels = torch.from_numpy(noise(2)).permute(0, 3, 1, 2)
    assert torch.equal(resize(pixels, (64, 64)), pixels)


@pytest.mark.parametrize(
    "values", [{"fps": 0.0}, {"fps": float("nan")}, {"min_frames": 0}, {"max_frames": 3}, {"min_pixels": 300_000}]
)
def test_bad_settings_are_refused(values):
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        VideoSettings(**values)


def test_settings_travel_as_json():
    settings = VideoSettings(fps=1.5, max_frames=8)
    assert VideoSettings(**json.loads(json.dumps(asdict(settings)))) == settings


# Reading


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        # 448 is 16 * 28, and the square root of the largest area.
        ("square", (480, 832), (448, 448)),
        ("square", (32, 32), (448, 448)),
        ("square", (10, 4000), (448, 448)),
        ("longest_side", (832, 480), (448, 252)),  # 480 * 448 / 832 = 258.5, nearest to 9 * 28
        ("longest_side", (480, 832), (252, 448)),
        ("longest_side", (300, 300), (308, 308)),  # within the limit: 300 / 28 = 10.7
        ("longest_side", (900, 20), (448, 28)),  # 20 * 448 / 900 = 10, less than half a patch
        ("smart", (480, 832), (336, 588)),  # 480 / sqrt(480 * 832 / 200704) = 340.3, and 589.8, both rounded down
    ],
)
def test_a_frame_has_the_size_of_its_rule(rule: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert frame_size(*size, 28, VideoSettings(resize=rule)) == expected


def test_what_keeps_the_ratio_refuses_a_strip() -> None:
    with pytest.raises(ValueError, match="at most 200 times as long as the other, got 10x4000"):
        frame_size(10, 4000, 28, VideoSettings(resize="longest_side"))


def test_a_file_is_read_by_its_rule(tmp_path: Path) -> None:
    square = VideoSettings(min_pixels=1024, max_pixels=70 * 70, resize="square")
    write_video(tmp_path / "wide.mp4", grey(8, 48, 96), fps=8)
    assert read_video(tmp_path / "wide.mp4", square, factor=32).pixels.shape[2:] == (64, 64)


def test_reads_the_sampled_frames_at_the_target_size(clip):
    frames = read_video(clip, SMALL, factor=16)
    assert frames.indices == (0, 2, 4, 6, 9, 11, 13, 15)
    assert indices_shown(frames.pixels) == list(frames.indices)
    assert frames.pixels.shape == (8, 3, 48, 48)
    assert frames.pixels.dtype == torch.uint8
    assert (frames.source_fps, frames.num_source_frames) == (8.0, 16)


def test_short_videos_repeat_their_last_frame(tmp_path):
    write_video(tmp_path / "short.mp4", grey(3), fps=8)
    frames = read_video(tmp_path / "short.mp4", SMALL, factor=16)
    assert indices_shown(frames.pixels) == list(frames.indices) == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "codec", "size"),
    [
        ("h264.mkv", "libx264", (96, 96)),
        ("vp9.webm", "libvpx-vp9", (96, 96)),
        ("mpeg4.avi", "mpeg4", (96, 96)),
        ("hevc.mov", "libx265", (96, 96)),
        ("odd.mp4", "libx264", (75, 97)),
        ("tiny.mp4", "libx264", (16, 16)),  # decord gives it six channels
        ("small.mp4", "libx264", (72, 72)),  # and this one four
        ("av1.mp4", "libsvtav1", (96, 96)),  # decord cannot
    ],
)
def test_reads_other_containers_codecs_and_sizes(tmp_path, name, codec, size):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    frames = read_video(encode(tmp_path / name, grey(16, *size), codec), SMALL, factor=16)
    assert indices_shown(frames.pixels) == list(frames.indices) == [0, 2, 4, 6, 9, 11, 13, 15]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "movflags"),
    [
        ("ten_bits.mp4", "libx265", "yuv420p10le", ""),
        ("alpha.mov", "prores_ks", "yuva444p10le", ""),
        ("alpha.webm", "libvpx-vp9", "yuva420p", ""),
        ("fragmented.mp4", "libx264", "yuv420p", "frag_keyframe+empty_moov"),
    ],
)
def test_reads_other_pixels_and_layouts(tmp_path, name, codec, pix_fmt, movflags):
    frames = read_video(encode(tmp_path / name, grey(16), codec, pix_fmt, movflags), SMALL, factor=16)
    assert indices_shown(frames.pixels) == list(frames.indices) == [0, 2, 4, 6, 9, 11, 13, 15]


@pytest.mark.parametrize("name", ["moved.mp4", "moved.mkv"])
def test_a_video_that_begins_late_begins_at_0(tmp_path, clip, name):
    moved = read_video(copy_packets(clip, tmp_path / name, lambda time: time + 10), SMALL, factor=16)
    frames = read_video(clip, SMALL, factor=16)
    assert (moved.indices, moved.seconds, moved.times) == (frames.indices, frames.seconds, ())


@pytest.mark.parametrize("name", ["slower.mp4", "slower.mkv"])
def test_a_variable_rate_is_sampled_at_equal_distances_in_time(tmp_path, clip, name):
    """The last frame is shown at 5.39 s; 1.02, 2.00, 3.27 and 4.27 are nearest to 1.08, 2.16, 3.23 and 4.31 s."""
    path = copy_packets(clip, tmp_path / name, lambda time: time + time**2)
    frames = read_video(path, VideoSettings(fps=1.0, max_frames=6), factor=16)
    assert indices_shown(frames.pixels) == list(frames.indices) == [0, 5, 8, 11, 13, 15]
    assert frames.seconds == pytest.approx([index / 8 + (index / 8) ** 2 for index in frames.indices], abs=1e-3)
    assert frames.num_source_frames == 16
    assert 16 / frames.source_fps == pytest.approx(5.39 * 16 / 15, abs=0.01)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), 25, 7.5])
def test_a_rate_is_constant_up_to_the_rounding_of_times(rate):
    ticks = np.array([round(index / rate * 1000) for index in range(500)])
    for declared in (Fraction(rate), Fraction(1000), None):
        fps, times = measure_times(ticks, np.ones(500, int), Fraction(1, 1000), [declared])
        assert (fps, times) == (float(rate), ()) or (
            rate == 7.5 and declared != 7.5 and fps == pytest.approx(7.5, 1e-5)
        )


def test_a_frame_that_is_left_out_makes_a_rate_variable():
    ticks = np.delete(np.arange(48), 20)
    fps, times = measure_times(ticks, np.ones(47, int), Fraction(1, 24), [Fraction(24)])
    assert (fps, len(times), times[19], times[20]) == (pytest.approx(47 / 48 * 24, 1e-3), 47, 19 / 24, 21 / 24)


def test_a_file_that_was_read_wrong_by_decord(tmp_path):
    """Behind open groups of pictures, decord gives other frames after each seek."""
    path = encode(tmp_path / "open.mp4", grey(19), "mpeg4", g="6", bf="2")
    header = video_checks.check_video(path)
    reader = decoders._load_decord().VideoReader(str(path))
    assert header.key_frames != tuple(reader.get_key_indices())
    frames = read_video(path, VideoSettings(fps=4.0), factor=16)
    assert indices_shown(frames.pixels) == list(frames.indices)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx265"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")]
)
def test_both_decoders_give_the_same_bits(monkeypatch, tmp_path, name, codec):
    path = encode(tmp_path / name, noise(30), codec)
    decord = read_video(path, SMALL)
    monkeypatch.setattr(video, "decode_with_decord", lambda *_: None)
    assert torch.equal(read_video(path, SMALL).pixels, decord.pixels)


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
@pytest.mark.parametrize("clockwise", MATRICES)
def test_rotation_is_applied_by_both_decoders(tmp_path, codec, clockwise):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    picture = np.zeros((4, 96, 192, 3), np.uint8)
    picture[:, :48, :96] = 255
    data = bytearray(encode(tmp_path / "plain.mp4", picture, codec).read_bytes())
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in MATRICES[clockwise])
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "rotated.mp4").write_bytes(data)
    pixels = read_video(tmp_path / "rotated.mp4", VideoSettings(), factor=32).pixels
    expected = np.rot90(picture[0], -clockwise // 90)
    assert pixels.shape[2:] == expected.shape[:2]
    assert np.abs(pixels[0].permute(1, 2, 0).numpy() - expected.astype(int)).mean() < 4


def test_frames_hidden_by_an_edit_list_are_not_sampled(tmp_path, clip):
    frames = read_video(copy_packets(clip, tmp_path / "edited.mp4", lambda time: time - 6 / 8), SMALL, factor=16)
    assert (frames.source_fps, frames.num_source_frames) == (8.0, 10)
    assert frames.indices == (0, 2, 4, 5, 7, 9)
    assert indices_shown(frames.pixels) == [6, 8, 10, 11, 13, 15]  # six hidden frames come before them


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some of these names")
@pytest.mark.parametrize("name", ["concat:clip.mp4", "-i.mp4", "frame%03d.mp4", os.fsdecode(b"\xff.mp4")])
def test_strange_names_are_files(monkeypatch, clip, name):
    clip.rename(clip.parent / name)
    monkeypatch.chdir(clip.parent)
    assert read_video(name, SMALL, factor=16).num_source_frames == 16


def test_padding_of_the_sound_is_no_missing_video(tmp_path):
    write_sound(tmp_path / "sound.mkv", grey(16))
    assert read_video(tmp_path / "sound.mkv", SMALL, factor=16).num_source_frames == 16


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
def test_nothing_stays_open(clip):
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    read_video(clip, SMALL, factor=16)
    gc.collect()  # of encoders that earlier tests have left
    before = count()
    for _ in range(20):
        read_video(clip, SMALL, factor=16)
    assert count() == before


# Refusing


def make_bad(kind: str, path: Path) -> str | Path:
    contents = {
        "empty": b"",
        "text": b"a red ball rolls to the left\n",
        "playlist": b"#EXTM3U\n#EXTINF:10,\nhttp://localhost/a.ts\n",
        "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
        "wav": b"RIFF\x00\x00\x00\x00WAVEfmt ",
        "hollow": b"\x00\x00\x00\x20ftypisom" + bytes(500),
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path.parent / "nowhere.mp4")
    elif kind == "audio":
        write_sound(path)
    elif kind == "picture":
        write_video(path, grey(1), fps=8)
    elif kind == "ribbon":
        write_video(path, grey(4, 2, 402), fps=8)
    return {"device": "/dev/zero", "url": "https://localhost/a.mp4", "null": "a\0b"}.get(kind, path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file"),
        ("link", "No such file"),
        ("null", "null byte"),
        ("url", "download it"),
        ("directory", "regular file"),
        ("pipe", "regular file"),
        ("device", "regular file"),
        ("empty", "empty file"),
        ("text", "begins with b'a red ball"),
        ("playlist", "begins with b'#EXTM3U"),
        ("png", "begins with"),
        ("jpeg", "begins with"),
        ("wav", "begins with"),
        ("hollow", "container cannot be read"),
        ("audio", "expected a video stream"),
        ("picture", "at least 2 frames, found 1"),
        ("ribbon", "at most 200 times"),
    ],
)
def test_bad_files_are_refused_with_their_name_and_reason(tmp_path, kind, reason):
    path = make_bad(kind, tmp_path / "bad.mp4")
    with pytest.raises(VideoError, match=reason) as error:
        read_video(path, SMALL)
    assert error.value.path == str(path)
    assert str(error.value).startswith(str(path))


def test_encrypted_videos_are_called_encrypted(tmp_path):
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76" * 16, "encryption_kid": "a7" * 16}
    with av.open(str(tmp_path / "locked.mp4"), "w", options=key) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 96, 96, "yuv420p"
        for frame in grey(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="encrypted"):
        read_video(tmp_path / "locked.mp4", SMALL)


def test_what_is_no_video_file_gets_the_command_that_makes_one(tmp_path):
    folder = tmp_path / "a clip"
    folder.mkdir()
    for index, frame in enumerate(grey(4)):
        Image.fromarray(frame).save(folder / f"{index}.png")
    np.save(tmp_path / "clip.npy", grey(4))
    (tmp_path / "clip.wmv").write_bytes(b"0&\xb2u\x8ef\xcf\x11" + bytes(500))
    with pytest.raises(
        VideoError, match=r"ffmpeg -framerate 8 -pattern_type glob -i '.*/a clip/\*.png' .*/a clip.mp4'$"
    ):
        read_video(folder, SMALL)
    with pytest.raises(VideoError, match=r"ffmpeg -i \S*/clip.wmv .*\S*/clip.mp4$"):
        read_video(tmp_path / "clip.wmv", SMALL)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"ffmpeg -i \S*/text.mp4 .*\S*/text-encoded.mp4$"):
        read_video(tmp_path / "text.mp4", SMALL)
    with pytest.raises(VideoError, match="of 8 frames per second: python -c ") as error:
        read_video(tmp_path / "clip.npy", SMALL)
    subprocess.run(
        shlex.split(error.value.reason.partition("second: ")[2].replace("python", sys.executable)), check=True
    )
    assert indices_shown(read_video(tmp_path / "clip.mp4", SMALL, factor=16).pixels) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animations_are_refused_if_cut_off_or_too_large(monkeypatch, tmp_path, kind):
    path = tmp_path / f"clip.{kind}"
    images = [Image.fromarray(frame) for frame in noise(12)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    assert read_video(path, SMALL).num_source_frames == 12
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(VideoError):
            read_video(path, SMALL)
    path.write_bytes(whole)
    for limit, value in (("MAX_SOURCE_PIXELS", 64 * 64 - 1), ("MAX_SOURCE_FRAMES", 11), ("MAX_SOURCE_SECONDS", 1.1)):
        with monkeypatch.context() as patch:
            patch.setattr(video_checks, limit, value)
            with pytest.raises(VideoError, match="expected at most"):
                read_video(path, SMALL)
    images[0].save(path)
    with pytest.raises(VideoError, match="at least 2 frames"):
        read_video(path, SMALL)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("name", ["faststart.mp4", "index_last.mp4", "cut.mkv"])
def test_cut_off_files_are_refused(tmp_path, name, share):
    if name == "faststart.mp4":
        write_video(tmp_path / name, noise(30), fps=8)
    else:
        encode(tmp_path / name, noise(30), "libx264")
    assert read_video(tmp_path / name, SMALL).num_source_frames == 30
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(VideoError):
        read_video(tmp_path / name, SMALL)


def test_headers_that_were_cut_off_are_refused(clip):
    whole = clip.read_bytes()
    for length in range(1, whole.index(b"mdat"), 23):
        clip.write_bytes(whole[:length])
        with pytest.raises(VideoError):
            read_video(clip, SMALL)


def test_one_missing_frame_is_tolerated(clip):
    last = packets(clip)[-1]
    clip.write_bytes(clip.read_bytes()[: last.pos])
    assert read_video(clip, SMALL, factor=16).num_source_frames == 15


def test_a_broken_last_frame_is_not_sampled(tmp_path):
    path = encode(tmp_path / "broken.avi", grey(16), "mpeg4")
    last = packets(path)[-1]
    path.write_bytes(path.read_bytes()[: last.pos + last.size // 2])
    assert read_video(path, SMALL, factor=16).num_source_frames == 15


def test_no_frame_is_shown_in_place_of_a_damaged_one(clip):
    data = bytearray(clip.read_bytes())
    data[packets(clip)[8].pos + 6] ^= 0x55  # in the slice header: the decoder drops the frame without an error
    clip.write_bytes(data)
    with pytest.raises(VideoError, match="expected to decode 16 frames"):
        read_video(clip, SMALL, factor=16)


@pytest.mark.parametrize(("name", "codec", "at_least"), [("flipped.mp4", "libx264", 10), ("flipped.avi", "mpeg4", 4)])
def test_pictures_that_the_decoder_patched_up_are_refused(tmp_path, name, codec, at_least):
    pictures = grey(30, 96, 96) // 2 + np.arange(96, dtype=np.uint8)[:, None]
    whole = encode(tmp_path / name, pictures, codec)
    data, pixels = whole.read_bytes(), read_video(whole, SMALL).pixels
    reasons = []
    for packet in packets(whole)[2::2]:
        flipped = bytearray(data)
        flipped[packet.pos + packet.size // 2] ^= 0x10
        whole.write_bytes(flipped)
        try:
            assert torch.equal(read_video(whole, SMALL).pixels, pixels) or codec == "mpeg4"  # which tells of less
        except VideoError as error:
            reasons.append(error.reason)
    assert sum("its picture is damaged in frame" in reason for reason in reasons) >= at_least


def test_pictures_that_change_their_shape_are_refused(tmp_path):
    wide = encode(tmp_path / "wide.avi", grey(16, 48, 96), "mpeg4")
    high = encode(tmp_path / "high.avi", grey(16, 96, 48), "mpeg4")
    path = str(join(wide, high, tmp_path / "both.avi"))
    with pytest.raises(VideoError, match="one shape, got 32x64 and 64x32"):
        read_video(path, SMALL)


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("MAX_SOURCE_PIXELS", 96 * 96 - 1, "9215 pixels a frame, got 96x96"),
        ("MAX_SOURCE_FRAMES", 15, "at most 15 frames, got 16"),
        ("MAX_SOURCE_SECONDS", 1.5, "at most 1.5 seconds, got 2.0"),
    ],
)
def test_headers_above_the_limits_are_refused(monkeypatch, clip, limit, value, reason):
    monkeypatch.setattr(video_checks, limit, value)
    with pytest.raises(VideoError, match=reason):
        read_video(clip, SMALL)


def test_errors_cross_processes():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "expected a video")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "expected a video", "a.mp4: expected a video")
