"""One update of stage 2 on one pair: as `RLModule` does it, against the published data flow written plainly.

    python -m benchmarks.speed.stage2_update              seconds, operations, and what is read how often
    python -m benchmarks.speed.stage2_update --memory     peak memory, with the vocabulary of Qwen3-VL
    python -m benchmarks.speed.stage2_update --scaling    cost by thoughts and by prefix; draws docs/stage2_cost.png

`stage2_case.py` says what the two do. The backbone is a small Qwen3-VL with random weights, float32, with
LoRA on its language model and a frozen vision tower that has about the share of an 8B's in the operations of a forward.
Thoughts and rollout rewards are made up; to sample them is not part of an update. Losses and gradients must agree
before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.harness import argument_parser, in_fresh_process, medians, result_table, timed, write_backbone
from benchmarks.speed.stage2_case import UPDATES, Case, build, create, update

TOLERANCE = 1e-4
"""How far losses may be apart, and the gradient of a parameter relative to its norm."""

VOCABULARY = 151_936
"""Of Qwen3-VL."""

THOUGHTS, PREFIXES = (1, 2, 4, 8, 16), (320, 640, 1280, 2560)
PICTURE = "docs/stage2_cost.png"

Cost = NDArray[np.float64]
"""[3] of an update: tokens that the language model reads, 10^9 operations, and seconds by the clock."""

Shape = tuple[int, int]
"""Thoughts of each video, and tokens of a prefix."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one update did.

    Attributes:
        losses: Policy loss, KL and calibration loss.
        gradients: By name of the parameter.
        gigaflops: 10^9 operations in matrix products; on CPU those of the attention are not counted.
        num_videos: Videos that went through the vision tower.
        num_tokens: Tokens that went forward through the language model.
    """

    losses: Tensor
    gradients: dict[str, Tensor]
    gigaflops: float
    num_videos: int
    num_tokens: int


def work(case: Case, way: str) -> Work:
    """Watch one update."""
    videos: list[int] = []
    tokens: list[int] = []

    def see(_module: nn.Module, _args: object, kwargs: dict[str, Tensor]) -> None:
        videos.append(len(kwargs["grid_thw"]))

    def read(_module: nn.Module, _args: object, kwargs: dict[str, Tensor]) -> None:
        tokens.append(kwargs["inputs_embeds"].shape[:2].numel())

    # torch cannot make a causal bias where it counts operations; all thoughts are alike and share one made before.
    bias = causal_lower_right(*_branch_and_all(case))
    backbone = case.model.base.model
    with (
        backbone.visual.register_forward_pre_hook(see, with_kwargs=True),
        backbone.language_model.register_forward_pre_hook(read, with_kwargs=True),
        mock.patch("descore.model.shared_prefix.causal_lower_right", return_value=bias),
        FlopCounterMode(display=False) as counter,
    ):
        losses = update(case, way)
    gradients = {name: p.grad for name, p in case.model.named_parameters() if p.grad is not None}
    return Work(losses, gradients, counter.get_total_flops() / 1e9, sum(videos), sum(tokens))


def distance(found: Work, expected: Work) -> float:
    """Largest relative distance between the gradients of a parameter; stop if it, or that of a loss, is too large."""
    pairs = [(found.gradients[name], gradient) for name, gradient in expected.gradients.items()]
    apart = max(float((own - other).norm() / other.norm()) for own, other in pairs)
    if not apart <= TOLERANCE or not torch.allclose(found.losses, expected.losses, rtol=0, atol=TOLERANCE):
        raise SystemExit(
            f"expected losses and gradients within {TOLERANCE} of each other, got losses {found.losses.tolist()} and "
            f"{expected.losses.tolist()}, and gradients {apart:.1e} apart; no measurement is valid"
        )
    return apart


def report_update(options: argparse.Namespace) -> None:
    """Compare, count and time both ways."""
    case = build(create(options), options)
    done = {way: work(case, way) for way in UPDATES}  # also the warm-up
    apart = distance(done["packed"], done["published"])
    taken = medians({way: partial(timed, partial(update, case, way)) for way in UPDATES}, options.repeats)
    columns = ("way", "seconds", "ratio", "CPU s", "ratio", "GFLOP", "ratio", "videos seen", "tokens read")
    table = result_table(*columns, words=["way"], markdown=options.markdown)
    values = {way: [*taken[way], done[way].gigaflops] for way in UPDATES}
    for way in UPDATES:
        cells = _with_ratios(values[way], values["packed"])
        table.add_row(way, *cells, f"{done[way].num_videos:,}", f"{done[way].num_tokens:,}")
    console = Console(width=120)
    console.print(table)
    console.print(f"{_description(case)}\nGradients are equal to {apart:.1e} of their norm.")


def report_memory(options: argparse.Namespace) -> None:
    """Measure the most that a fresh process of each way holds, in GB: before the update, and with it."""
    # Memory that is freed goes back to the system at once, or the peak would be as large as holes in the heap make it.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    table = result_table(
        "way", "before GB", "peak GB", "ratio", "update GB", "ratio", words=["way"], markdown=options.markdown
    )
    few = argparse.Namespace(**vars(options) | {"num_thoughts": min(options.num_thoughts, 2)})
    # Thought by thought, the published way holds no more for eight of them than for two.
    held = {
        "packed": in_fresh_process(_held_by_this_process, options, "packed"),
        "published": in_fresh_process(_held_by_this_process, few, "published"),
    }
    values = {way: [peak, peak - before] for way, (before, peak) in held.items()}
    for way, (before, _) in held.items():
        table.add_row(way, f"{before:.2f}", *_with_ratios(values[way], values["packed"]))
    Console(width=120).print(table)


def report_scaling(options: argparse.Namespace) -> None:
    """Measure both ways by thoughts and by prefix; the published one with one thought, which it repeats n times."""
    by_thoughts, by_prefix = [(n, options.prefix) for n in THOUGHTS], [(options.num_thoughts, p) for p in PREFIXES]
    shapes = dict.fromkeys(by_thoughts + by_prefix)
    model = create(options)
    cases = {("packed", shape): build(model, _resized(options, *shape)) for shape in shapes}
    cases |= {("published", (1, prefix)): build(model, _resized(options, 1, prefix)) for _, prefix in shapes}
    found = costs(cases, options.repeats)
    packed = {shape: found["packed", shape] for shape in shapes}
    published = {(n, prefix): n * found["published", (1, prefix)] for n, prefix in shapes}
    console = Console(width=120)
    console.print(_scaling_table(options, packed, published))
    console.print(_extra_thought(packed[by_thoughts[0]], packed[by_thoughts[-1]]))
    _draw(packed, published, by_thoughts, by_prefix)


def costs(cases: Mapping[tuple[str, Shape], Case], repeats: int) -> dict[tuple[str, Shape], Cost]:
    """Count and time one update of each way and shape; they take turns."""
    counted = {key: work(case, key[0]) for key, case in cases.items()}
    taken = medians({str(key): partial(timed, partial(update, case, key[0])) for key, case in cases.items()}, repeats)
    return {key: np.array([done.num_tokens, done.gigaflops, taken[str(key)][0]]) for key, done in counted.items()}


def main() -> None:
    options = _options()
    if options.memory:
        options.vocabulary = VOCABULARY
    with tempfile.TemporaryDirectory() as folder:
        options.backbone = folder
        write_backbone(folder, options)
        report = report_memory if options.memory else report_scaling if options.scaling else report_update
        report(options)


def _branch_and_all(case: Case) -> tuple[int, int]:
    """Tokens of a branch, and of its prefix with it."""
    layout = case.rollouts.pack(case.model.processor, [0])[0].layout
    branch = layout.branch_lengths[0][0]
    return branch, layout.prefix_lengths[0] + branch


def _with_ratios(values: list[float], bases: list[float]) -> list[str]:
    pairs = zip(values, bases, strict=True)
    return [cell for value, base in pairs for cell in (f"{value:,.2f}", f"{value / base:.2f}")]


def _description(case: Case) -> str:
    size = sum(parameter.numel() for parameter in case.model.parameters()) / 1e6
    _, num_thoughts, num_tokens = case.rollouts.mask.shape
    num_video = int(case.prefixes[0].grid.prod()) // 4
    return (
        f"{size:.1f} M parameters. Prefix {len(case.prefixes[0].input_ids):,} tokens, {num_video:,} of them video; "
        f"{num_thoughts} thoughts of {num_tokens - 1:,} for each of two videos."
    )


def _held_by_this_process(options: argparse.Namespace, way: str) -> tuple[float, float]:
    """Memory in GB before an update, and at most; of the process, on a GPU what torch allocated."""
    case = build(create(options), options)
    if options.device != "cpu":
        before = torch.cuda.memory_allocated(options.device)
        update(case, way)
        return before / 1e9, torch.cuda.max_memory_allocated(options.device) / 1e9
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()  # Linux
    update(case, way)
    return before / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def _resized(options: argparse.Namespace, num_thoughts: int, prefix: int) -> argparse.Namespace:
    """Change the shape; the video keeps about its share of the prefix."""
    frames = 2 * max(1, options.frames * prefix // (2 * options.prefix))
    return argparse.Namespace(**vars(options) | {"num_thoughts": num_thoughts, "prefix": prefix, "frames": frames})


def _scaling_table(options: argparse.Namespace, packed: dict[Shape, Cost], published: dict[Shape, Cost]) -> Table:
    columns = ("thoughts", "prefix", "way", "tokens read", "GFLOP", "ratio", "seconds", "ratio")
    table = result_table(*columns, words=["way"], markdown=options.markdown)
    for (n, prefix), own in packed.items():
        for way, cost in (("packed", own), ("published", published[n, prefix])):
            tokens, *values = cost.tolist()
            table.add_row(str(n), f"{prefix:,}", way, f"{tokens:,.0f}", *_with_ratios(values, own.tolist()[1:]))
    return table


def _extra_thought(first: Cost, last: Cost) -> str:
    """Say what one more thought of each video costs, and what its tokens would at the rate of all tokens."""
    _, gigaflops, seconds = (last - first) / (THOUGHTS[-1] - THOUGHTS[0])
    tokens = (last - first)[0] / (THOUGHTS[-1] - THOUGHTS[0])
    rate = first / first[0]
    return (
        f"One more thought of each video is {tokens:,.0f} tokens more to read and costs {gigaflops:.1f} GFLOP and "
        f"{seconds:.2f} s;\nas many tokens of an update with one thought cost {tokens * rate[1]:.1f} GFLOP and "
        f"{tokens * rate[2]:.2f} s.\nThe published way reads thought by thought: its figures are n times those of one."
    )


def _draw(
    packed: dict[Shape, Cost], published: dict[Shape, Cost], by_thoughts: list[Shape], by_prefix: list[Shape]
) -> None:
    mpl.use("agg")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    panels = ((THOUGHTS, by_thoughts, "thoughts of each video"), (PREFIXES, by_prefix, "tokens of a prefix"))
    for axis, (values, shapes, label) in zip(axes, panels, strict=True):
        for way, cost in (("published", published), ("packed", packed)):
            axis.plot(values, [cost[shape][2] for shape in shapes], "o-", label=way)
        axis.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
    first = packed[by_thoughts[0]]
    alone = [first[2] * packed[shape][0] / first[0] for shape in by_thoughts]
    axes[0].plot(THOUGHTS, alone, ":", color="black", label="packed, by tokens")
    axes[0].set(title=f"prefix of {by_thoughts[0][1]:,} tokens", ylabel="seconds of an update")
    axes[1].set(title=f"{by_prefix[0][0]} thoughts of each video")
    axes[0].legend(loc="upper left")
    figure.savefig(PICTURE, dpi=110)


def _options() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.set_defaults(side=320, width=384, vocabulary=3288, repeats=3)
    add = parser.add_argument
    add("--prefix", type=int, default=1280, help="tokens of a prefix; the published limit is 6,200")
    add("--thought", type=int, default=300, help="tokens of a thought")
    add("--num-thoughts", type=int, default=8, help="thoughts of each video")
    add("--lora-rank", type=int, default=64, help="rank of the adapters of the language model")
    add("--checkpointing", action="store_true", help="make activations again in the backward pass, as the recipe does")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--memory", action="store_true", help="measure peak memory instead, with 151,936 words")
    instead.add_argument("--scaling", action="store_true", help="measure by thoughts and by prefix, and draw it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
