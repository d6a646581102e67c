"""Exotic and malformed videos: is each decoded right, or refused with its reason, and does anything pile up?

    python -m tests.robustness.bad_videos --repeat 2000 2> /dev/null

The files are those of `hostile_videos`: every picture shows its index and a moving texture, so that a wrong
frame, a turned one and a damaged one all differ from what was drawn. They are read as `Processor.read` reads, in a
child process with a time limit. The exit code is 1 if a file came out wrong or late, hung the decoder or crashed it. Then:

- flipped bits: what becomes of 60 copies of a file, each with 1, 10 or 100 of them;
- bombs: how much memory it takes to refuse them;
- decoders: whether decord and PyAV give the same pictures;
- children: what reading in a child costs, on videos of 5 seconds at 1280x720;
- `--repeat`: memory, threads and open files after so many reads of good files, and of bad ones.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from descore.types import Frames
from descore.video import frames as video
from descore.video.checks import VideoError
from descore.video.frames import VideoReader, VideoSettings, resize
from descore.video.isolation import IsolatedReader
from tests.helpers.measuring import Seconds, in_fresh_process, medians, result_table
from tests.robustness.hostile_videos import Case, encode, flip, make_files, picture

READER = VideoReader(VideoSettings(fps=8.0, max_frames=32, max_pixels=320 * 320), factor=32, even=2)
PUBLISHED = VideoReader(VideoSettings(), factor=32, even=2)
MOST_OFF = 8.0
"""Largest difference, of 255, between the mean of a block of 16x16 pixels and that of what was drawn there."""

table = partial(result_table, words=("file", "result", "reason", "process", "way"), markdown=True)


def difference(case: Case, frames: Frames) -> float:
    """How far the frames are from what was drawn, where they are farthest."""
    drawn = [picture(index + case.first, case.height, case.width) for index in frames.indices]
    size = (frames.pixels.shape[2], frames.pixels.shape[3])
    expected = torch.cat([resize(torch.from_numpy(shown).permute(2, 0, 1)[None], size) for shown in drawn])
    return float(F.avg_pool2d(frames.pixels.float() - expected.float(), 16).abs().max())


def judge(case: Case, decode: IsolatedReader) -> tuple[str, str, float]:
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


def judge_all(groups: Mapping[str, Sequence[Case]], decode: IsolatedReader) -> tuple[Table, Counter[str]]:
    """Every file with its verdict, and how many had which."""
    rows, counts = table("file", "result", "reason", "s"), Counter[str]()
    for group, cases in groups.items():
        for case in cases:
            verdict, detail, seconds = judge(case, decode)
            rows.add_row(case.name, verdict, detail, f"{seconds:.2f}")
            counts[f"{group}: {verdict}"] += 1
            counts["WRONG: more than 5 s"] += verdict == "refused" and seconds > 5
    return rows, +counts


def flipped_bits(folder: Path, decode: IsolatedReader) -> Table:
    """How many copies with flipped bits are refused, right all the same, and wrong without a sign of it."""
    rows = table("file", "refused", "right", "damaged", "hung or crashed")
    for name in ("h264.mp4", "mpeg4.avi", "av1.mp4", "hevc.mp4", "vp9.webm"):
        counts, copy = Counter[str](), folder / f"copy_{name}"
        for seed in range(20):
            for count in (1, 10, 100):
                copy.write_bytes(flip(folder / name, count, seed))
                counts[judge(Case(name, str(copy), None), decode)[0]] += 1
        shown = [counts.pop(verdict, 0) for verdict in ("refused", "right", "WRONG: read")]
        rows.add_row(name, *map(str, shown), str(counts.total()))
    return rows


def bombs(cases: Sequence[Case]) -> Table:
    """Memory that it takes to refuse what would fill it: the peak of a child above that of one that read nothing."""
    rows = table("file", "MB more")
    least = peak_of_child("nothing.mp4")
    for case in cases:
        if "bomb" in case.name:
            rows.add_row(case.name, f"{peak_of_child(case.path) - least:.0f}")
    return rows


def peak_of_child(path: str) -> float:
    before, decode = set(children()), IsolatedReader(READER)
    with contextlib.suppress(VideoError):
        decode(path)
    (child,) = set(children()) - before
    return numbers(child, "VmHWM")[0] / 1024


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def numbers(pid: str, *keys: str) -> list[int]:
    text = Path(f"/proc/{pid}/status").read_text()
    return [int(text.split(f"{key}:")[1].split()[0]) for key in keys]


def by_decord(path: str) -> Frames:
    with mock.patch.object(video, "_decode_with_pyav", side_effect=VideoError(path, "decord cannot")):
        return READER(path)


def by_pyav(path: str) -> Frames:
    with mock.patch.object(video, "_decode_with_decord", return_value=None):
        return READER(path)


def compare_decoders(cases: Sequence[Case]) -> Table:
    """What decord and PyAV make of the same valid files."""
    rows = table("file", "decord off by", "PyAV off by", "mean difference")
    ways = {"decord": IsolatedReader(by_decord), "PyAV": IsolatedReader(by_pyav)}
    for case in cases:
        found: dict[str, Frames] = {}
        for way, decode in ways.items():
            with contextlib.suppress(VideoError):
                found[way] = decode(case.path)
        if found:
            off = [f"{difference(case, found[way]):.1f}" if way in found else "cannot" for way in ways]
            both = [frames.pixels.float() for frames in found.values()]
            rows.add_row(case.name, *off, f"{(both[0] - both[1]).abs().mean():.3f}" if len(both) == 2 else "")
    return rows


def cost_of_children(folder: Path) -> Table:
    """Time of a read in this process, in a child that reads ten videos, and in one that reads a single one."""
    frames = (np.roll(picture(0, 720, 1280), 7 * index, 1) for index in range(150))
    path = str(encode(folder / "720p.mp4", frames=frames, fps=30))

    def measure(create: Callable[[], Callable[[str], Frames]], count: int) -> Seconds:
        start, read = clocks(), create()
        for _ in range(count):
            read(path)
        del read  # so that its child has ended, whose CPU time is known from then on
        return (clocks() - start) / count

    rows = table("way", "ms", "ratio", "CPU ms", "ratio")
    taken = medians(
        {
            "in this process": partial(measure, lambda: PUBLISHED, 10),
            "in a child that reads 10 videos": partial(measure, lambda: IsolatedReader(PUBLISHED), 10),
            "in a child of its own": partial(measure, lambda: IsolatedReader(PUBLISHED), 1),
        },
        repeats=5,
    )
    direct = taken["in this process"]
    for way, (clock, cpu) in taken.items():
        ratios = clock / direct[0], cpu / direct[1]
        rows.add_row(way, f"{clock * 1e3:.0f}", f"{ratios[0]:.2f}", f"{cpu * 1e3:.0f}", f"{ratios[1]:.2f}")
    return rows


def clocks() -> Seconds:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in used)])


def piles(repeat: int, paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Memory, threads and open files of this process and of a child, while files are read again and again."""
    before, decode = set(children()), IsolatedReader(READER)
    for done in range(1, repeat + 1):
        with contextlib.suppress(VideoError):
            decode(paths[done % len(paths)])
        if done in {repeat // 10, repeat}:
            (child,) = set(children()) - before
            for owner, pid in (("parent", "self"), ("child", child)):
                memory, threads = numbers(pid, "VmRSS", "Threads")
                yield str(done), owner, f"{memory / 1024:.0f}", str(threads), str(len(os.listdir(f"/proc/{pid}/fd")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=0, help="then read good files and bad ones this often")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit for one file")
    options = parser.parse_args()
    show, decode = Console(width=200).print, IsolatedReader(READER, seconds=options.seconds)
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as trap:
        folder = Path(name)
        groups = in_fresh_process(make_files, folder, trap.getsockname()[1])  # encoders leave much memory behind
        rows, counts = judge_all(groups, decode)
        trap.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            trap.accept()
            counts["WRONG: connected to the network"] += 1
        show(rows, dict(counts))
        show("Flipped bits", flipped_bits(folder, decode))
        show("Bombs", bombs(groups["exotic"]))
        show("Decoders", compare_decoders(groups["exotic"]))
        show("Children", cost_of_children(folder))
        good = [case.path for case in groups["exotic"] if case.readable and "8K" not in case.name]
        bad = [case.path for cases in groups.values() for case in cases if case.readable is False]
        for paths in (good, bad) if options.repeat else ():
            piled = table("reads", "process", "MB", "threads", "files")
            for row in piles(options.repeat, paths):
                piled.add_row(*row)
            show(f"{options.repeat} reads of {len(paths)} files", piled)
    return int(any(verdict in counted for counted in counts for verdict in ("WRONG", "hang", "crash")))


if __name__ == "__main__":
    sys.exit(main())
