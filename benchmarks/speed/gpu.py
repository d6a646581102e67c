"""Both stages and scoring at the published lengths on one GPU, in bf16-mixed, against the plain way.

    python -m benchmarks.speed.gpu                              8B on a GPU of 60 GB or more, else 2B
    python -m benchmarks.speed.gpu --shape tiny --device cpu    shows within a minute that it runs

The cases are those of `stage1_step.py`, `stage2_update.py` and `thinking.py`; a step includes the optimizer's. The
backbone is made on the device with random weights in the sizes of Qwen3-VL; nothing is downloaded. As in the recipe,
the language model trains by LoRA, and in stage 1 the vision tower and its mergers train too.

    share      operations of our way in matrix products, those done twice included, over the operations a second that a
               large bf16 product reaches on the same device
    apart      largest difference from the results of our way, which are rewards or losses

The rows of a case are printed as soon as it is measured. A way that needs more memory than there is says so. The exit
code is 1 if a difference is larger than bfloat16 explains.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from benchmarks.fits import formulas
from benchmarks.fits.formulas import Video
from benchmarks.speed import stage1_step, stage2_update, thinking
from benchmarks.speed.harness import Benchmark, argument_parser, autocast, timed

CASES: dict[str, tuple[Benchmark, dict[str, Any]]] = {
    "stage 1 step": (stage1_step.BENCHMARK, {}),
    "stage 1 step, activations kept": (stage1_step.BENCHMARK, {"checkpointing": False}),
    "stage 2 update": (stage2_update.BENCHMARK, {}),
    "thoughts of a pair": (thinking.BENCHMARK, {"videos": 2}),
    "score with a thought": (thinking.BENCHMARK, {"videos": 1, "num_thoughts": 1}),
}
"""What is measured: a benchmark, and the options that differ from those given."""

TINY = {"prefix": 120, "frames": 4, "side": 64, "thought": 12, "num_thoughts": 3, "product": 256, "lora_rank": 4}
"""Options of the tiny shape."""

COLUMNS = ("case", "way", "seconds", "ratio", "share", "peak GB", "apart")
LARGE = 60e9
"""Bytes of a GPU that holds the 8B."""

LONG = 20.0
"""A first run of more seconds is no warm-up, but the measurement."""

TOLERANCE = 0.2
"""How far apart bfloat16 may bring rewards, whose standard deviation over random heads is about 1 in an 8B."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a way took.

    Attributes:
        seconds: Median of the timed runs.
        memory: Peak memory in GB; empty on a CPU.
        result: Rewards or losses of the first run.
    """

    seconds: float
    memory: str
    result: Tensor | None


def main() -> None:
    options = _options()
    peak = largest_product(options)
    print(_description(options, peak))
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    apart: list[float] = []
    for name, (benchmark, changes) in CASES.items():
        if options.only not in name:
            continue
        try:
            apart += measure(name, benchmark, argparse.Namespace(**vars(options) | changes), peak)
        except torch.OutOfMemoryError:
            _print(name, "", "out of memory")
        free(options.device)
    if not all(distance <= TOLERANCE for distance in apart):
        sys.exit(f"expected results within {TOLERANCE} of each other, got {apart}")


def measure(name: str, benchmark: Benchmark, options: argparse.Namespace, peak: float) -> list[float]:
    """Measure all ways of one case and print their rows; return how far the results of the others are from ours."""
    with autocast(options):
        case = benchmark.build(options)
        optimizer = AdamW([p for p in case.model.parameters() if p.requires_grad], lr=0.0)
        # At a rate of 0 a step takes what it takes, and every way starts from the same weights.
        steps = {way: partial(_step, run, case, optimizer) for way, run in benchmark.ways.items()}
        found = {way: measured for way, step in steps.items() if (measured := _measured(step, options))}
    ours, apart = found.get(next(iter(steps))), []
    for way in steps:
        if way not in found:
            _print(name, way, "out of memory")
            continue
        seconds, result, ratio, share, distance = found[way].seconds, found[way].result, "", "", ""
        if ours is found[way]:
            ratio, share = "1.00", f"{operations(benchmark, case, options) / seconds / peak:.0%}"
        elif ours:
            ratio = f"{seconds / ours.seconds:.2f}"
            if result is not None:
                apart.append(float((result - ours.result).abs().max()))
                distance = f"{apart[-1]:.1g}"
        _print(name, way, f"{seconds:.3g}", ratio, share, found[way].memory, distance)
    return apart


def operations(benchmark: Benchmark, case: Any, options: argparse.Namespace) -> float:
    """Operations of our way in matrix products."""
    config, rank, branch = case.model.base.config, options.lora_rank, options.thought + 1
    number = 1 if benchmark is stage1_step.BENCHMARK else options.num_thoughts
    videos = [Video.of(prefix, (branch,) * number) for prefix in case.prefixes]
    rows = len(videos) * number * branch
    if benchmark is thinking.BENCHMARK:
        return formulas.vision(config, videos) + formulas.forward(config, videos, rank=rank, num_rows=rows)
    update = partial(formulas.update, config, videos, rank=rank, checkpointing=options.checkpointing)
    if benchmark is stage1_step.BENCHMARK:
        return update(vision_trains=True)
    frozen = formulas.vision(config, videos) + formulas.forward(config, videos, num_rows=rows)
    return frozen + update(num_rows=rows, logits_twice=True)


def largest_product(options: argparse.Namespace) -> float:
    """Operations a second of a large bf16 product."""
    left, right = (torch.randn(options.product, options.product, device=options.device).bfloat16() for _ in "ab")

    def products() -> None:
        for _ in range(10):
            left @ right

    products()
    best = min(timed(products)[0] for _ in range(5))
    return 10 * 2 * options.product**3 / float(best)


def free(device: str) -> None:
    """Return memory that nothing holds any more."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def _measured(step: Callable[[], Tensor | None], options: argparse.Namespace) -> Measured | None:
    """Measure one way; None if it needs more memory than there is."""
    on_gpu = torch.device(options.device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    results: list[Tensor | None] = []
    try:
        taken = [timed(lambda: results.append(step()))[0]]
        if taken[0] < LONG:
            taken = [timed(step)[0] for _ in range(options.repeats)]
    except torch.OutOfMemoryError:
        return None
    finally:
        free(options.device)
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if on_gpu else ""
    return Measured(float(np.median(taken)), memory, results[0])


def _step(run: Callable[[Any], Tensor | None], case: Any, optimizer: Optimizer) -> Tensor | None:
    """Run a way, and where it leaves gradients, move the weights."""
    result = run(case)
    torch.nn.utils.clip_grad_norm_(case.model.parameters(), 1.0)
    optimizer.step()
    return result


def _print(name: str, way: str, *cells: str) -> None:
    print(f"| {' | '.join((name, way, *cells, *[''] * (len(COLUMNS) - 2 - len(cells))))} |", flush=True)


def _description(options: argparse.Namespace, peak: float) -> str:
    device = torch.cuda.get_device_name() if torch.device(options.device).type == "cuda" else options.device
    return (
        f"{time.strftime('%Y-%m-%d')}, {device}, torch {torch.__version__}. Shape {options.shape}, LoRA of rank "
        f"{options.lora_rank}. A bf16 product of {options.product:,} squared reaches {peak / 1e12:.3g} TFLOP/s.\n"
        f"Prefix {options.prefix:,} tokens with {options.frames} frames of {options.side} squared, "
        f"{options.num_thoughts} thoughts of {options.thought:,}."
    )


def _options() -> argparse.Namespace:
    lengths = {"prefix": 6200, "frames": 50, "thought": 1500}
    parser = argument_parser(__doc__, small=False, device="cuda", checkpointing=True, **lengths)
    parser.add_argument("--num-thoughts", type=int, default=8, help="thoughts per video in stage 2")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure the cases whose names contain TEXT")
    parser.add_argument("--product", type=int, default=8192, help="side of the matrices whose product is the peak")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a GPU, found none: --shape tiny --device cpu shows that this runs")
    if options.shape == "tiny":
        parser.set_defaults(**TINY)
    if options.shape == "auto":
        large = options.device == "cuda" and torch.cuda.mem_get_info()[1] > LARGE
        parser.set_defaults(shape="8B" if large else "2B")
    return parser.parse_args()


if __name__ == "__main__":
    main()
