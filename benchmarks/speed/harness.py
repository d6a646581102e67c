"""What benchmarks of speed share: a small random Qwen3-VL, random videos, arguments, and medians of times."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from transformers.utils import logging

from data_modules.world.small_backbone import Sizes, write_random_backbone
from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.seeding import generator
from descore.types import Frames, Prefix, Thought

TEMPLATE = "conf/prompts/descore.txt"
PROMPT = "A red kite climbs over a windy beach while two children run after it, filmed from a low angle."

Result = TypeVar("Result")

Seconds = NDArray[np.float64]
"""[2]: of the clock, and of the CPU."""


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of every benchmark of speed; `set_defaults` sets those that differ."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--frames", type=int, default=10, help="frames of a video; 10 is 5 seconds at the published 2 per second")
    add("--side", type=int, default=448, help="side of a frame in pixels; 448 is the published budget, 200,704 px")
    add("--width", type=int, default=256, help="hidden size of the language model; the vision tower has half of it")
    add("--layers", type=int, default=8, help="layers of the language model")
    add(
        "--vocabulary",
        type=int,
        default=151_936,
        help="rows of lm_head; about 1.07 x width x layers gives it an 8B's share",
    )
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=torch.get_num_threads(), help="threads of torch on the CPU")
    add("--repeats", type=int, default=5, help="runs of each way; the table shows the median")
    add("--markdown", action="store_true", help="print the table in Markdown")
    return parser


def write_backbone(folder: str, options: argparse.Namespace) -> None:
    """Write a Qwen3-VL of the wanted sizes, with random weights and a token for every word of `PROMPT`."""
    logging.disable_progress_bar()
    sizes = Sizes(
        text=options.width,
        text_layers=options.layers,
        vision=options.width // 2,
        patch=16,
        vocabulary=options.vocabulary,
    )
    write_random_backbone(Path(folder), [PromptTemplate.read(TEMPLATE).text, PROMPT], sizes=sizes)


def create_model(folder: str, num_threads: int) -> RewardModel:
    """Load what `write_backbone` wrote, under the published instruction, and set the threads of torch."""
    torch.set_num_threads(num_threads)
    logging.disable_progress_bar()
    return RewardModel.create(ModelSettings(folder, PromptTemplate.read(TEMPLATE).text))


def random_frames(options: argparse.Namespace, video: str) -> Frames:
    """Noise instead of a video of 24 frames per second, sampled at 2 per second."""
    shape = (options.frames, 3, options.side, options.side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator(0, "frames", video))
    return Frames(pixels, tuple(range(0, 12 * options.frames, 12)), 24.0, 12 * options.frames)


def padded_prefix(processor: Processor, options: argparse.Namespace, video: str) -> Prefix:
    """Lengthen the prompt, by a word that is one token, until the prefix has `options.prefix` tokens."""
    frames = random_frames(options, video)
    shortest = len(processor.prefix(PROMPT, frames).input_ids)
    if shortest > options.prefix:
        raise SystemExit(f"expected --prefix of at least {shortest}, got {options.prefix}; or lower --frames or --side")
    return processor.prefix(PROMPT + " kite" * (options.prefix - shortest), frames)


def random_thought(processor: Processor, num_tokens: int, name: str) -> Thought:
    """Draw tokens that a thought may hold."""
    never = {*processor.forbidden_ids, processor.end_id}
    allowed = [token_id for token_id in range(len(processor.tokenizer)) if token_id not in never]
    drawn = torch.randint(len(allowed), (num_tokens,), generator=generator(0, "thought", name))
    return Thought(tuple(allowed[index] for index in drawn.tolist()), closed=True)


def in_fresh_process(function: Callable[..., Result], *args: Any) -> Result:
    """Run a function of a module in a process of its own, whose peak of memory is then that of the function."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(function, *args).result()


def now() -> Seconds:
    """What the clock and the CPU time of this process show, once a GPU that is in use has caught up."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def timed(run: Callable[[], object]) -> Seconds:
    start = now()
    run()
    return now() - start


def medians(ways: Mapping[str, Callable[[], Seconds]], repeats: int) -> dict[str, Seconds]:
    """Median of what each way says it took; the ways take turns, so a busy machine slows them all."""
    taken: dict[str, list[Seconds]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, measure in ways.items():
            taken[way].append(measure())
    return {way: np.median(times, axis=0) for way, times in taken.items()}


def result_table(*columns: str, words: Collection[str], markdown: bool) -> Table:
    """Start a table; columns of words are set to the left, those of numbers to the right."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE)
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table
