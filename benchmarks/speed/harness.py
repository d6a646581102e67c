"""What the benchmarks of speed share: options, random inputs, clocks, and one table of ours against the plain way."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.backbones import PROMPT, SHAPES, random_model, small_shape
from descore.inputs.processor import Processor
from descore.model.reward_model import RewardModel
from descore.model.trainable import Part
from descore.seeding import generator
from descore.types import Frames, Prefix, Thought

TOLERANCE = 1e-4
"""Largest difference between the results of two ways, and between two gradients relative to their norm."""

Seconds = NDArray[np.float64]
"""[2]: wall-clock time and CPU time."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is compared.

    Attributes:
        build: Makes a case from the options: a `model`, its `prefixes`, and whatever else the ways need.
        ways: Ways to the same result, ours first. A way returns its result, or None for a part of the work, and leaves
            its gradients in the model.
    """

    build: Callable[[argparse.Namespace], Any]
    ways: Mapping[str, Callable[[Any], Tensor | None]]


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Prints the description as it is, and the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def argument_parser(description: str | None, *, small: bool = True, **defaults: object) -> argparse.ArgumentParser:
    """Options of a benchmark that runs a model: a small one in float32, or a large one in bf16-mixed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    add = parser.add_argument
    other = "small" if small else "auto"
    add("--shape", choices=[other, *SHAPES], default=other, help="sizes of the backbone, those of a Qwen3-VL")
    if small:
        add("--width", type=int, default=384, help="width of a small language model; the vision tower is half as wide")
        add("--layers", type=int, default=8, help="layers of a small language model")
        add("--vocabulary", type=int, help="rows of a small lm_head; 1.07 x width x layers gives it an 8B's share")
        add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
        add("--memory", action="store_true", help="measure the peak memory of each way too, in a process of its own")
        add("--checkpointing", action="store_true", help="recompute activations in the backward pass")
        add("--markdown", action="store_true", help="print the table in Markdown")
    add("--prefix", type=int, help="tokens before a thought; the published limit is 6,200")
    add("--frames", type=int, help="frames of a video; 10 are 5 seconds at the published frame rate")
    add("--side", type=int, default=448, help="side of a frame in pixels; 448 is the published pixel budget")
    add("--thought", type=int, help="tokens of a thought; the published limit is 4,096")
    add("--lora-rank", type=int, default=64, help="rank of LoRA on the language model; 0 trains it in full")
    add("--device", default="cpu", help="cpu or cuda")
    add("--repeats", type=int, default=3, help="timed runs of each way; the table shows the median")
    parser.set_defaults(mixed=not small, **defaults)
    return parser


def build_model(options: argparse.Namespace, parts: Sequence[Part]) -> RewardModel:
    """Make the model that the options ask for, of which some parts train."""
    if options.shape == "small":
        shape = small_shape(options.width, options.layers, options.vocabulary)
    else:
        shape = SHAPES[options.shape]
    dtype = torch.bfloat16 if options.mixed else torch.float32
    model = random_model(shape, options.device, dtype, parts=parts, lora_rank=options.lora_rank)
    if options.checkpointing:
        model.base.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def padded_prefix(processor: Processor, options: argparse.Namespace, video: str) -> Prefix:
    """Make a prefix of `options.prefix` tokens: noise for a video, and a prompt that is repeated to the length."""
    shape = (options.frames, 3, options.side, options.side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator(0, "frames", video))
    frames = Frames(pixels, tuple(range(0, 12 * options.frames, 12)), 24.0, 12 * options.frames)
    shortest = len(processor.prefix(PROMPT, frames).input_ids)
    if shortest > options.prefix:
        raise SystemExit(f"expected --prefix of at least {shortest}, got {options.prefix}; or lower --frames or --side")
    return processor.prefix(PROMPT + " kite" * (options.prefix - shortest), frames)


def random_thought(processor: Processor, num_tokens: int, name: str) -> Thought:
    """Draw a thought from the tokens that a thought may hold."""
    never = {*processor.forbidden_ids, processor.end_id}
    allowed = [token_id for token_id in range(len(processor.tokenizer)) if token_id not in never]
    drawn = torch.randint(len(allowed), (num_tokens,), generator=generator(0, "thought", name))
    return Thought(tuple(allowed[index] for index in drawn.tolist()), closed=True)


def compare(benchmark: Benchmark, options: argparse.Namespace) -> None:
    """Check that all ways agree, then print a table of what each of them takes; exit with 1 if they do not agree."""
    console = Console(width=120)
    # The peak memory of a child process starts at that of its parent, which therefore must be small.
    peaks = {way: _in_fresh_process(_peak_memory, benchmark, way, options) for way in benchmark.ways if options.memory}
    torch.set_num_threads(options.threads)
    with autocast(options):
        case = benchmark.build(options)
        runs = {way: partial(run, case) for way, run in benchmark.ways.items()}
        counted = {way: _counted(run, case.model, options) for way, run in runs.items()}
        agreement = check([(result, gradients) for result, gradients, _ in counted.values()])
        taken = medians({way: partial(timed, run) for way, run in runs.items()}, options.repeats)
    measured = {way: [*taken[way], counted[way][2], *([peaks[way]] if peaks else [])] for way in runs}
    columns = ["seconds", "CPU s", "GFLOP", *(["peak GB"] if peaks else [])]
    table = result_table("way", *(name for column in columns for name in (column, "ratio")), markdown=options.markdown)
    first = next(iter(measured.values()))
    for way, values in measured.items():
        pairs = zip(values, first, strict=True)
        table.add_row(way, *(cell for value, base in pairs for cell in (f"{value:,.2f}", f"{value / base:.2f}")))
    console.print(table)
    console.print(f"{_description(case, options)}\n{agreement}")


def check(found: Sequence[tuple[Tensor | None, dict[str, Tensor]]]) -> str:
    """Compare the result and the gradients of each way with those of the first, and say how close they are.

    Raises:
        SystemExit: If they differ by more than the tolerance, or if all results are alike and show nothing.
    """
    (expected, gradients), *others = [(result, gradient) for result, gradient in found if result is not None]
    assert expected is not None
    # A maximum of tensors is nan where one of them is, unlike Python's.
    apart = float(torch.stack([(result - expected).abs().max() for result, _ in others]).max())
    distances = [
        (g[name] - own).norm() / own.norm().clamp(min=1e-30) for _, g in others for name, own in gradients.items()
    ]
    gradients_apart = float(torch.stack(distances).max()) if distances else 0.0
    spread = float(expected.max() - expected.min())
    said = (
        f"Results agree to {apart:.1e}, of a spread of {spread:.1e}; gradients to {gradients_apart:.1e} of their norm."
    )
    if not (apart <= TOLERANCE and gradients_apart <= TOLERANCE and spread >= 10 * TOLERANCE):
        raise SystemExit(f"expected agreement to {TOLERANCE}, of ten times that; no measurement is valid. {said}")
    return said


def one_bias(thought: int, prefix: int) -> Any:
    """Make the causal bias of all branches beforehand: torch can make none while operations are watched."""
    bias = causal_lower_right(thought + 1, prefix + thought + 1)
    return mock.patch("descore.model.shared_prefix.causal_lower_right", return_value=bias)


def autocast(options: argparse.Namespace) -> torch.autocast:
    """Narrow products to bfloat16 if mixed, as Lightning does; a cache would keep weights that have changed."""
    device = torch.device(options.device).type
    return torch.autocast(device, torch.bfloat16, enabled=options.mixed, cache_enabled=False)


def timed(run: Callable[[], object]) -> Seconds:
    """Seconds that a function takes, until the GPU has finished."""
    start = _now()
    run()
    return _now() - start


def medians(ways: Mapping[str, Callable[[], Seconds]], repeats: int) -> dict[str, Seconds]:
    """Median of the seconds that each way returns; the ways alternate, so that a busy machine slows them all."""
    taken: dict[str, list[Seconds]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, measure in ways.items():
            taken[way].append(measure())
    return {way: np.median(times, axis=0) for way, times in taken.items()}


def result_table(*columns: str, words: Collection[str] = ("way",), markdown: bool) -> Table:
    """Start a table; columns of words are aligned left, those of numbers right."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE)
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table


def _counted(
    run: Callable[[], Tensor | None], model: RewardModel, options: argparse.Namespace
) -> tuple[Tensor | None, dict[str, Tensor], float]:
    """Result, gradients, and 10^9 operations in matrix products; on a CPU those of the attention are not counted."""
    with one_bias(options.thought, options.prefix), FlopCounterMode(display=False) as counter:
        result = run()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return result, gradients, counter.get_total_flops() / 1e9


def _peak_memory(benchmark: Benchmark, way: str, options: argparse.Namespace) -> float:
    """Most memory in GB that this process has held after one run: all of it, or on a GPU what torch allocated."""
    torch.set_num_threads(options.threads)
    with autocast(options):
        benchmark.ways[way](benchmark.build(options))
    if options.device != "cpu":
        return torch.cuda.max_memory_allocated(options.device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def _in_fresh_process(function: Callable[..., float], *args: object) -> float:
    # Freed memory is returned to the system at once; otherwise holes in the heap would count towards the peak.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(function, *args).result()


def _now() -> Seconds:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def _description(case: Any, options: argparse.Namespace) -> str:
    size = sum(parameter.numel() for parameter in case.model.parameters()) / 1e6
    num_video = int(case.prefixes[0].grids.prod()) // 4
    return (
        f"{size:.1f} M parameters. Prefix of {options.prefix:,} tokens, {num_video:,} of them video; "
        f"thoughts of {options.thought:,} tokens."
    )
