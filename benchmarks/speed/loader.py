"""Pairs per second of the loader against reading the same files plainly, with the cache of frames and without it.

    python -m benchmarks.speed.loader --workers 1
    python -m benchmarks.speed.loader --table pairs.csv    # your own files

Without a table, H.264 clips of 720p, 5 seconds and 24 frames per second are written first. All ways use the same number
of processes, which start anew each time; their start counts:

    decode         decord alone on the frames that training samples
    read           the frames of training: checks, decoding, resizing
    loader         the batches of training: videos decoded in children of the workers, prompts, patches, packing, and
                   the way to the training process
    loader, cache  the same with the frames on disk

Patches of the three last ways must be equal before anything is timed. On a busy machine compare CPU time, which is that
of all processes of a way together.
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
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from benchmarks.speed.backbones import PROMPT, SHAPES, random_model
from benchmarks.speed.harness import HelpFormatter, Seconds, medians, result_table
from data_modules.decode_ahead import DecodeAhead
from data_modules.loader import PairLoader
from descore.inputs.collate import PairCollator, Read
from descore.inputs.processor import Processor
from descore.seeding import fold
from descore.tables.pairs import read_pairs
from descore.types import Pair, Side
from descore.video.frame_cache import FrameCache
from descore.video.frames import sample_indices
from descore.video.writer import write_video

THOUGHT = "The prompt asks for a red kite and two children. The video shows both, and the kite climbs steadily. " * 20
HEIGHT, WIDTH, FPS, NUM_FRAMES = 720, 1280, 24, 120
SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    # Decoders that workers leave behind become children of this process, so that their CPU time is counted.
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    processor = random_model(SHAPES["tiny"], "meta", torch.float32, parts=["head"]).processor
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        pairs = _pairs(options, Path(name))
        cache = FrameCache(processor.read, processor.video_reader, Path(name) / "cache", 2**36)
        load = partial(_load, options, pairs, processor)
        load(cache)  # fills it
        check(processor, cache, pairs[:2])
        ways: dict[str, Callable[[], object]] = {
            "decode": lambda: _in_processes(partial(_decode, processor), pairs, options.workers),
            "read": lambda: _in_processes(processor.video_reader, pairs, options.workers),
            "loader": lambda: load(None),
            "loader, cache": lambda: load(cache),
        }
        taken = medians({way: partial(_seconds, run) for way, run in ways.items()}, options.repeats)
    table = result_table("way", "pairs per second", "ratio", "CPU s per pair", "ratio", markdown=options.markdown)
    for way, seconds in taken.items():
        (wall, cpu), ratios = seconds / len(pairs), taken["read"] / seconds
        table.add_row(way, f"{1 / wall:.2f}", f"{ratios[0]:.2f}", f"{cpu:.3f}", f"{ratios[1]:.2f}")
    Console(width=120).print(table)
    busy = taken["loader"][1] / len(pairs)
    print(
        f"Ratios are speeds relative to read. Without the cache, steps of N pairs every S seconds keep {busy:.2f} N / S"
        " workers busy, each on a core of its own."
    )


def check(processor: Processor, cache: FrameCache, pairs: Sequence[Pair]) -> None:
    """Stop unless the loader gives the patches that plain reading gives, with the cache and without it."""
    with multiprocessing.get_context("fork").Pool(1) as pool:  # no decoder may run in this process before workers fork
        expected = pool.map(partial(_patches, processor), pairs)
    for read in (None, cache):
        collate = PairCollator(processor, read=read)
        loader = PairLoader(pairs, collate, batch_size=1, shuffle=False, ahead=DecodeAhead(1, 2))
        for batch, patches in zip(loader, expected, strict=True):
            if not torch.equal(batch.branches.patches, torch.from_numpy(patches)):
                raise SystemExit(f"expected the loader to give the patches of pair {batch.pairs[0].id}")


def _patches(processor: Processor, pair: Pair) -> NDArray[np.uint8]:
    frames = [processor.video_reader(side.video) for side in (pair.a, pair.b)]
    patches: Tensor = torch.cat([processor.prefix(pair.prompt, video).patches for video in frames])
    return patches.numpy()


def _decode(processor: Processor, path: str) -> None:
    """Decode the frames of training with decord, and do nothing else with them."""
    import decord

    video, reader = decord.VideoReader(path, decord.cpu(0), num_threads=1), processor.video_reader
    for index in sample_indices(len(video), video.get_avg_fps(), reader.settings, reader.even):
        video[index].asnumpy()


def _in_processes(read: Callable[[str], object], pairs: Sequence[Pair], workers: int) -> None:
    """Read every video of the pairs, each process its share."""
    shares = [[side.video for pair in pairs[start::workers] for side in (pair.a, pair.b)] for start in range(workers)]
    processes = [multiprocessing.get_context("fork").Process(target=_read_all, args=(read, share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def _read_all(read: Callable[[str], object], paths: Sequence[str]) -> None:
    for path in paths:
        read(path)


def _load(options: argparse.Namespace, pairs: Sequence[Pair], processor: Processor, read: Read | None) -> None:
    """Take an epoch of batches, and do nothing with them."""
    collate = PairCollator(processor, mask_prob=0.5, read=read)
    ahead = DecodeAhead(options.workers, 2)
    loader = PairLoader(pairs, collate, batch_size=options.batch_size, shuffle=True, ahead=ahead)
    assert sum(len(batch.pairs) for batch in loader) == len(pairs)


def _seconds(run: Callable[[], object]) -> Seconds:
    """Wall-clock time, and CPU time of this process and all that it starts."""
    start = _clocks()
    run()
    wall = time.perf_counter()
    for _ in range(20):  # the decoders end soon after their workers
        time.sleep(0.1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    return np.array([wall, _clocks()[1]]) - start


def _clocks() -> Seconds:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in used)])


def _pairs(options: argparse.Namespace, folder: Path) -> list[Pair]:
    if options.table:
        table = read_pairs(options.table, preset=options.preset, dimensions=[options.dimension])
        return list(table.pairs[: options.pairs])
    sides = [Side(str(folder / f"{clip}.mp4"), THOUGHT) for clip in range(4)]
    for clip, side in enumerate(sides):
        picture = _waves(clip)
        frames = [np.roll(picture, (clip * time, (3 + clip) * time), axis=(0, 1)) for time in range(NUM_FRAMES)]
        write_video(side.video, np.stack(frames), FPS)
    clips = [Pair("", PROMPT, sides[0], sides[1], (1.0,)), Pair("", PROMPT, sides[2], sides[3], (-1.0,))]
    repeated = zip(range(options.pairs), itertools.cycle(clips), strict=False)
    return [replace(pair, id=str(number)) for number, pair in repeated]


def _waves(clip: int) -> NDArray[np.uint8]:
    """[H, W, 3] picture without edges or noise, seamless at its borders."""
    rng = np.random.default_rng(fold(0, "waves", clip))
    rows, columns = np.arange(HEIGHT)[:, None, None] / HEIGHT, np.arange(WIDTH)[None, :, None] / WIDTH
    picture = np.zeros((HEIGHT, WIDTH, 3))
    for down, across in rng.integers(-24, 25, (12, 2)):
        picture += np.sin(2 * np.pi * (down * rows + across * columns + rng.random(3)))
    return (128 + 25 * picture).clip(0, 255).astype(np.uint8)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--table", help="table of pairs to read instead of generated clips")
    add("--preset", default="descore", help="layout of the table")
    add("--dimension", default="overall", help="preference to read from the table")
    add("--pairs", type=int, default=16, help="pairs of an epoch")
    add("--batch-size", type=int, default=4, help="pairs of a batch")
    add("--workers", type=int, default=2, help="processes of each way")
    add("--repeats", type=int, default=3, help="timed runs of each way; the table shows the median")
    add("--folder", help="folder of the clips and the cache, if not the temporary folder of the system")
    add("--markdown", action="store_true", help="print the table in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
