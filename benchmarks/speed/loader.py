"""Pairs per second of the loader against decoding the same files, and with the cache of frames against without.

    python -m benchmarks.speed.loader --help

H.264 clips of 720p, 5 seconds and 24 frames per second go through the loader and the collator of training. What they
are held against is as many processes that read the same files and keep nothing: `decode` is decord alone on the frames
that are sampled, `read` is what gives the frames of training, with checks and resizing. The ways take turns, each with
processes of its own whose start counts, and each turn gives a ratio of its own; the table shows the medians. On a busy
machine go by CPU time, of all processes of a way together.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.speed.data_wait import TEMPLATE, Seconds, write_backbone, write_pairs
from data_modules.decode_ahead import DecodeAhead
from data_modules.loader import PairLoader
from descore.inputs.collate import PairCollator, Read
from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.types import Pair, Side
from descore.video.frame_cache import FrameCache
from descore.video.frames import sample_indices

_SET_CHILD_SUBREAPER = 36  # of Linux's prctl

AIMS = {"loader": ("read", 0.9), "loader, cache": ("loader", 5.0)}
"""Way -> the way it is held against, and the ratio to reach."""


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    _adopt_orphans()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        pairs = _link(write_pairs(folder), options.pairs, folder)
        processor = Processor(ModelSettings(write_backbone(folder), PromptTemplate.read(TEMPLATE).text))
        cache = FrameCache(processor.read, processor.video_reader, folder / "cache", 2**36)
        ways: dict[str, Callable[[], object]] = {
            "decode": lambda: _in_processes(_Decode(processor), pairs, options.workers),
            "read": lambda: _in_processes(processor.video_reader, pairs, options.workers),
            "loader": lambda: _load(processor, None, pairs, options),
            "loader, cache": lambda: _load(processor, cache, pairs, options),
        }
        ways["loader, cache"]()  # fills it
        turns = [{way: _clocks_of(run) for way, run in ways.items()} for _ in range(options.repeats)]
    _report(options, turns)


class _Decode:
    """Decodes the frames of training with decord, and does nothing else with them."""

    def __init__(self, processor: Processor) -> None:
        self.reader = processor.video_reader

    def __call__(self, path: str) -> None:
        import decord

        video = decord.VideoReader(path, decord.cpu(0), num_threads=1)
        for index in sample_indices(len(video), video.get_avg_fps(), self.reader.settings, self.reader.even):
            video[index].asnumpy()


def _in_processes(read: Callable[[str], object], pairs: Sequence[Pair], workers: int) -> None:
    """Read every video of the pairs, each process its share."""
    context = multiprocessing.get_context("fork")
    shares = [[side.video for pair in pairs[start::workers] for side in (pair.a, pair.b)] for start in range(workers)]
    processes = [context.Process(target=_read_all, args=(read, share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def _read_all(read: Callable[[str], object], paths: Sequence[str]) -> None:
    for path in paths:
        read(path)


def _load(processor: Processor, read: Read | None, pairs: Sequence[Pair], options: argparse.Namespace) -> None:
    """Take an epoch of batches, and do nothing with them."""
    collate = PairCollator(processor, mask_prob=0.5, read=read)
    ahead = DecodeAhead(options.workers, 2)
    loader = PairLoader(pairs, collate, batch_size=options.batch_size, shuffle=True, ahead=ahead, seed=0)
    assert sum(len(batch.pairs) for batch in loader) == len(pairs)


def _link(clips: Sequence[Pair], num_pairs: int, folder: Path) -> list[Pair]:
    """Give clips names of their own: to a cache they are as many videos."""
    pairs = []
    for number, pair in zip(range(num_pairs), itertools.cycle(clips), strict=False):
        sides = []
        for name, side in (("a", pair.a), ("b", pair.b)):
            path = folder / f"{number}{name}.mp4"
            os.link(side.video, path)
            sides.append(Side(str(path), side.thought))
        pairs.append(replace(pair, id=str(number), a=sides[0], b=sides[1]))
    return pairs


def _clocks_of(run: Callable[[], object]) -> Seconds:
    """Seconds of the clock, and of the CPU in this process and all that it starts."""
    start = _clocks()
    run()
    wall = time.perf_counter()
    _reap_orphans()
    return np.array([wall, _clocks()[1]]) - start


def _clocks() -> Seconds:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in used)])


def _adopt_orphans() -> None:
    """Become the parent of the decoders that workers leave behind, so that their CPU time is known in the end."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans() -> None:
    """Wait for them; they end with their workers."""
    for _ in range(20):
        time.sleep(0.1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _report(options: argparse.Namespace, turns: Sequence[dict[str, Seconds]]) -> None:
    style = box.MARKDOWN if options.markdown else box.SIMPLE
    columns = ("pairs per second", "ratio", "lowest, highest", "CPU s per pair", "ratio", "lowest, highest", "aim")
    table = Table("way", *columns, box=style)
    for way in turns[0]:
        other, aim = AIMS.get(way, ("", 0.0))
        clocks = np.array([turn[way] for turn in turns]) / options.pairs
        rate, cpu = np.median(clocks, axis=0)
        cells = [["", ""]] * 2
        if other:
            ratios = np.array([turn[other] / turn[way] for turn in turns])
            shown = zip(np.median(ratios, axis=0), ratios.min(0), ratios.max(0), strict=True)
            cells = [[f"{middle:.2f} x {other}", f"{low:.2f}, {high:.2f}"] for middle, low, high in shown]
        table.add_row(way, f"{1 / rate:.2f}", *cells[0], f"{cpu:.3f}", *cells[1], f"{aim:g}" if other else "")
    Console(width=140).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pairs", type=int, default=32, help="pairs of an epoch")
    add("--batch-size", type=int, default=4, help="pairs of a batch")
    add("--workers", type=int, default=2, help="processes, of each way")
    add("--repeats", type=int, default=5, help="turns")
    add("--folder", help="where clips and cache are written; the system's temporary folder by default")
    add("--markdown", action="store_true", help="print the table in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
