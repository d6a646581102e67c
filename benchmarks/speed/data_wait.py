"""How long a stage-1 step waits for its batch, where the workers spend their time, and how many of them are enough.

    python -m benchmarks.speed.data_wait --help

Real video files go through the loader and the collator of training: those of a table, or H.264 clips of 720p, 5 seconds
and 24 frames per second that are written first. The step is a sleep of --step-seconds, which leaves the cores to the
workers as a GPU does, or with --model a real step of the backbone.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pkgutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from data_modules.decode_ahead import DecodeAhead
from data_modules.loader import PairLoader
from data_modules.world.small_backbone import Sizes, write_random_backbone
from descore.inputs.collate import PairCollator
from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.losses.preference import bradley_terry_loss
from descore.model.reward_model import RewardModel
from descore.seeding import fold
from descore.tables.pairs import read_pairs
from descore.types import Pair, PairBatch, Side
from descore.video.checks import check_video
from descore.video.isolation import IsolatedReader
from descore.video.writer import write_video

TEMPLATE = "conf/prompts/descore.txt"
PROMPT = "A red kite climbs over a windy beach while two children run after it, filmed from a low angle."
THOUGHT = "The prompt asks for a red kite and two children. The video shows both, and the kite climbs steadily. " * 20
HEIGHT, WIDTH, FPS, NUM_FRAMES = 720, 1280, 24, 120
TIMED = {
    "check": "descore.video.checks.check_video",
    "resize": "descore.video.frames.resize",
    "read": "descore.video.frames.VideoReader.__call__",  # checks, decodes and resizes
    "prefix": "descore.inputs.processor.Processor.prefix",
}
"""The functions that are timed while a batch is built."""

Seconds = NDArray[np.float64]
"""[2]: of the clock, and of the CPU."""


def write_pairs(folder: Path) -> tuple[Pair, ...]:
    """Write four clips of smooth waves that drift across the picture, and pair them."""
    sides = []
    for clip in range(4):
        waves = _waves(clip)
        frames = [np.roll(waves, (clip * t, (3 + clip) * t), axis=(0, 1)) for t in range(NUM_FRAMES)]
        sides.append(Side(str(folder / f"{clip}.mp4"), THOUGHT))
        write_video(sides[-1].video, np.stack(frames), FPS)
    return Pair("0", PROMPT, sides[0], sides[1], (1.0,)), Pair("1", PROMPT, sides[2], sides[3], (-1.0,))


def wait_and_step(loader: PairLoader, compute: Callable[[PairBatch], object]) -> tuple[float, float]:
    """Mean seconds that a step waits for its batch, and that it computes.

    The first batches were prefetched while nothing was computed; they do not count.
    """
    waits, computes = [], []
    asked = time.perf_counter()
    for batch in loader:
        arrived = time.perf_counter()
        compute(batch)
        waits.append(arrived - asked)
        asked = time.perf_counter()
        computes.append(asked - arrived)
    first = 2 * loader.ahead.num_workers
    return statistics.mean(waits[first:]), statistics.mean(computes[first:])


def worker_seconds(collate: PairCollator, pairs: Sequence[Pair]) -> dict[str, Seconds]:
    """What one worker spends on a pair, part by part, in mean seconds."""
    spent = {name: np.zeros(2) for name in TIMED}
    start = _clocks()
    with ExitStack() as stack:
        # In this process: the clocks here do not see what a child does.
        stack.enter_context(mock.patch.object(IsolatedReader, "__call__", lambda decode, path: decode.read(path)))
        for name, target in TIMED.items():
            stack.enter_context(mock.patch(target, _timed(pkgutil.resolve_name(target), spent[name])))
        for pair in pairs:
            collate(0, [pair])
    total = _clocks() - start
    parts = {
        "check the files": spent["check"],
        "decode": spent["read"] - spent["check"] - spent["resize"],
        "resize": spent["resize"],
        "patches and prompt": spent["prefix"],
        "thoughts and packing": total - spent["read"] - spent["prefix"],
    }
    return {part: seconds / len(pairs) for part, seconds in parts.items()}


def main() -> None:
    options = _options()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        pairs = _pairs(options, Path(folder))
        settings = ModelSettings(
            options.backbone or write_backbone(Path(folder)),
            PromptTemplate.read(TEMPLATE).text,
            reward_names=tuple(options.dimensions),
        )
        collate = PairCollator(Processor(settings), mask_prob=0.5)
        wait, compute = wait_and_step(_loader(options, pairs, collate), _compute(options, settings))
        # Only now: no decoder may have run in this process when workers are forked. One thread, as they have; and no
        # child process to decode in, so that it is seen what takes the time.
        torch.set_num_threads(1)
        collate.read = collate.processor.video_reader
        parts = worker_seconds(collate, pairs[: options.pairs])
        _report(options, _describe(pairs[: options.pairs]), wait, compute, parts)


def _report(options: argparse.Namespace, videos: str, wait: float, compute: float, parts: dict[str, Seconds]) -> None:
    console, style = Console(width=120), box.MARKDOWN if options.markdown else box.SIMPLE
    total = sum(parts.values(), np.zeros(2))
    console.print(videos)
    console.print(
        f"{options.workers} workers, {options.batch_size} pairs a step: waits {wait:.2f} s, computes {compute:.2f} s, "
        f"so {wait / (wait + compute):.0%} of a step is waiting."
    )
    where = Table("a worker's time", "s per pair", "CPU s per pair", "share", box=style)
    for part, (wall, cpu) in [*parts.items(), ("total", total)]:
        where.add_row(part, f"{wall:.3f}", f"{cpu:.3f}", f"{wall / total[0]:.0%}")
    console.print(where)
    bottleneck = max(parts, key=lambda part: parts[part][0])
    console.print(f"The bottleneck is: {bottleneck}, {parts[bottleneck][0] / total[0]:.0%} of a worker's time.")
    if total[0] > 1.5 * total[1]:
        console.print(
            "Far less of it is CPU time: other programs take the cores, or the files come slowly from the disk."
        )
    needed = Table("a step of", "needs workers by the clock", "by CPU time", box=style)
    for seconds in sorted({0.5, 1.0, 2.0, 4.0, options.step_seconds}):
        needed.add_row(f"{seconds:g} s", *(str(math.ceil(options.batch_size * clock / seconds)) for clock in total))
    console.print(needed)
    console.print("Each of them needs a core of its own.")


def _pairs(options: argparse.Namespace, folder: Path) -> tuple[Pair, ...]:
    if not options.table:
        return write_pairs(folder)
    return read_pairs(options.table, preset=options.preset, dimensions=options.dimensions).pairs


def _describe(pairs: Sequence[Pair]) -> str:
    paths = [side.video for pair in pairs for side in (pair.a, pair.b)]
    headers = [check_video(path) for path in paths]
    lengths = [header.num_frames / header.fps for header in headers]
    megabits = sum(Path(path).stat().st_size for path in paths) * 8e-6 / sum(lengths)
    return f"Videos of {statistics.mean(lengths):.1f} s and {megabits:.1f} Mbit/s on average."


def _loader(options: argparse.Namespace, pairs: Sequence[Pair], collate: PairCollator) -> PairLoader:
    """One epoch that is long enough, since the workers start anew in each."""
    num_pairs = options.batch_size * (options.steps + 2 * options.workers)
    again = list(itertools.islice(itertools.cycle(pairs), num_pairs))
    ahead = DecodeAhead(options.workers, 2)
    return PairLoader(again, collate, batch_size=options.batch_size, shuffle=False, ahead=ahead)


def _compute(options: argparse.Namespace, settings: ModelSettings) -> Callable[[PairBatch], object]:
    if not options.model:
        return lambda batch: time.sleep(options.step_seconds)
    model = RewardModel.create(settings)

    def step(batch: PairBatch) -> None:
        model.zero_grad()
        reward_a, reward_b = model(batch.branches).rewards.chunk(2)
        bradley_terry_loss(reward_a, reward_b, batch.preference).sum().backward()  # type: ignore[no-untyped-call]

    return step


def _timed(function: Callable[..., Any], spent: Seconds) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = _clocks()
        try:
            return function(*args, **kwargs)
        finally:
            np.add(spent, _clocks() - start, out=spent)

    return call


def _clocks() -> Seconds:
    return np.array([time.perf_counter(), time.process_time()])


def _waves(clip: int) -> NDArray[np.uint8]:
    """[H, W, 3] picture without edges or noise, seamless at its borders."""
    rng = np.random.default_rng(fold(0, "waves", clip))
    rows, columns = np.arange(HEIGHT)[:, None, None] / HEIGHT, np.arange(WIDTH)[None, :, None] / WIDTH
    picture = np.zeros((HEIGHT, WIDTH, 3))
    for down, across in rng.integers(-24, 25, (12, 2)):
        picture += np.sin(2 * np.pi * (down * rows + across * columns + rng.random(3)))
    return (128 + 25 * picture).clip(0, 255).astype(np.uint8)


def write_backbone(folder: Path) -> str:
    """A small Qwen3-VL with random weights and the published patch size."""
    write_random_backbone(folder, [PromptTemplate.read(TEMPLATE).text, PROMPT, THOUGHT], sizes=Sizes(patch=16))
    return str(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--table", help="pairs to read; without one, clips are written to a temporary folder")
    add("--preset", default="descore", help="layout of the table")
    add("--dimensions", nargs="+", default=["overall"], help="labels to read of the table")
    add(
        "--backbone",
        default="",
        help="hub id or folder, for its tokenizer and patch size; a small random one by default",
    )
    add("--workers", type=int, default=2, help="processes that decode ahead")
    add("--batch-size", type=int, default=4, help="pairs a step")
    add("--steps", type=int, default=8, help="steps that count")
    add("--pairs", type=int, default=8, help="at most so many pairs are taken apart to time the parts of a worker")
    add("--step-seconds", type=float, default=2.0, help="how long an emulated step computes")
    add("--model", action="store_true", help="compute a real step on the CPU instead: forward, loss and backward")
    add("--markdown", action="store_true", help="print the tables in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
