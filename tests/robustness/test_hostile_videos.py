"""Strange, damaged, cut-off and fake videos: each is decoded right or refused with a reason, and nothing piles up.

A file is decoded right if every block of 16 x 16 pixels is near what was drawn, so a wrong frame, a turned one and a
damaged one are all noticed. Files are read as training reads them, in a child process with a time limit.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import av
import pytest
import torch
import torch.nn.functional as F

from descore.types import Frames
from descore.video import frames as video
from descore.video.checks import VideoError
from descore.video.frames import VideoReader, resize
from descore.video.isolation import IsolatedReader
from descore.video.settings import VideoSettings
from tests.helpers.drawn_videos import flip, picture, remux
from tests.helpers.video_corpus import Case, beyond_limits, cut_off, damaged, encode_as, make, no_videos, valid

READER = VideoReader(VideoSettings(fps=8.0, max_frames=32, max_pixels=320 * 320), factor=32, even=2)
MAX_OFF = 8.0
"""Largest difference, of 255, between the means of a block of 16 x 16 pixels as decoded and as drawn."""
READS = int(os.environ.get("DESCORE_READS", "200"))
"""Reads after which memory, threads and open files are compared with those after a tenth of them."""

pytestmark = pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="this PyAV writes no AV1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    encode_as(folder, "h264.mp4", "h264.mkv", "mpeg4.avi", "av1.mp4")
    remux(folder / "h264.mp4", folder / "index_first.mp4", movflags="+faststart")
    return folder


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return make(valid, tmp_path_factory.mktemp("strange"))


def difference(case: Case, frames: Frames) -> float:
    """Return the largest difference between the frames and what was drawn."""
    drawn = [picture(index + case.first, case.height, case.width) for index in frames.indices]
    size = (frames.pixels.shape[2], frames.pixels.shape[3])
    expected = torch.cat([resize(torch.from_numpy(shown).permute(2, 0, 1)[None], size) for shown in drawn])
    return float(F.avg_pool2d(frames.pixels.float() - expected.float(), 16).abs().max())


def judge(case: Case, decode: IsolatedReader[Frames]) -> str:
    """Return "right", "refused", "damaged" or "stuck", with what is to be said where that must not be."""
    try:
        frames = decode(case.path)
    except VideoError as error:
        if "took more than" in error.reason or "process died" in error.reason:
            return f"stuck: {error.reason}"
        return f"refused: {error.reason}" if case.readable else "refused"
    off = difference(case, frames)
    return "right" if off < MAX_OFF and case.readable is not False else f"damaged: off by {off:.1f}"


def unexpected(cases: Iterable[Case]) -> dict[str, str]:
    decode = IsolatedReader(READER, seconds=20)
    judged = {case.name: judge(case, decode) for case in cases}
    assert judged
    return {name: verdict for name, verdict in judged.items() if verdict not in {"right", "refused"}}


def test_what_is_cut_off_or_damaged_is_refused_or_right_all_the_same(folder: Path) -> None:
    assert not unexpected(cut_off(folder))
    assert not unexpected(damaged(folder))


def test_what_is_no_video_is_refused_and_leads_nowhere(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        assert not unexpected(no_videos(folder, trap.getsockname()[1]))
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.slow
def test_strange_videos_are_decoded_right(strange: list[Case]) -> None:
    assert not unexpected(strange)


@pytest.mark.slow
def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    """A child that refuses one takes less than 100 MB more than a child that reads nothing."""
    cases = make(beyond_limits, tmp_path)
    assert not unexpected(cases)
    least = peak_of_child("nothing.mp4")
    assert {case.name: more for case in cases if (more := peak_of_child(case.path) - least) > 100} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "av1.mp4", "hevc.mp4", "vp9.webm"])
def test_flipped_bits_hang_and_crash_nothing(tmp_path: Path, name: str) -> None:
    """60 copies with 1, 10 or 100 flipped bits; damage goes unnoticed by the decoders of HEVC and VP9 only."""
    encode_as(tmp_path, name)
    decode, counts, copy = IsolatedReader(READER, seconds=20), Counter[str](), tmp_path / f"copy_{name}"
    for seed in range(20):
        for number in (1, 10, 100):
            copy.write_bytes(flip(tmp_path / name, number, seed))
            counts[judge(Case(name, str(copy), None), decode).partition(":")[0]] += 1
    print(name, dict(counts))
    assert not counts["stuck"]
    assert not counts["damaged"] or name in {"hevc.mp4", "vp9.webm"}


def by_decord(path: str) -> Frames:
    with mock.patch.object(video, "decode_with_pyav", side_effect=VideoError(path, "decord cannot")):
        return READER(path)


def by_pyav(path: str) -> Frames:
    with mock.patch.object(video, "decode_with_decord", return_value=None):
        return READER(path)


@pytest.mark.slow
def test_both_decoders_give_the_same_frames(strange: list[Case]) -> None:
    """PyAV reads every valid file; where decord reads it too, the mean difference is below 0.01 of 255."""
    decord, pyav, num_both = IsolatedReader(by_decord), IsolatedReader(by_pyav), 0
    for case in strange:
        theirs = pyav(case.path)
        with suppress(VideoError):
            ours = decord(case.path)
            num_both += 1
            assert ours.indices == theirs.indices, case.name
            assert (ours.pixels.float() - theirs.pixels.float()).abs().mean() < 0.01, case.name
    print(f"decord reads {num_both} of {len(strange)} files")
    assert num_both >= 25


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valid", "bad"])
def test_nothing_piles_up(folder: Path, strange: list[Case], kind: str) -> None:
    """Threads and open files of the parent and of the child stay the same, and memory grows by less than 10 MB."""
    bad = [case.path for cases in (cut_off(folder), damaged(folder)) for case in cases if case.readable is False]
    paths = bad if kind == "bad" else [case.path for case in strange if "8K" not in case.name]
    before, decode, used = set(children()), IsolatedReader(READER), []
    for done in range(1, READS + 1):
        with suppress(VideoError):
            decode(paths[done % len(paths)])
        if done in {READS // 10, READS}:
            (child,) = set(children()) - before
            used.append([usage(pid) for pid in ("self", child)])
    print(kind, used)
    for (memory, *rest), (later_memory, *later_rest) in zip(*used, strict=True):
        assert later_memory - memory < 10
        assert later_rest == rest


def usage(pid: str) -> tuple[float, int, int]:
    """Return the memory in MB, the threads and the open files of a process."""
    return status(pid, "VmRSS") / 1024, status(pid, "Threads"), len(os.listdir(f"/proc/{pid}/fd"))


def peak_of_child(path: str) -> float:
    """Return the peak memory, in MB, of a new child that reads one file."""
    before, decode = set(children()), IsolatedReader(READER)
    with suppress(VideoError):
        decode(path)
    (child,) = set(children()) - before
    return status(child, "VmHWM") / 1024


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def status(pid: str, key: str) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{key}:")[1].split()[0])
