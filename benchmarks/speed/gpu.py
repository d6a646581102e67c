"""Both stages and scoring at the published lengths on one GPU, in bf16, against the plain way.

    python -m benchmarks.speed.gpu                              8B on a GPU of 60 GB or more, else 2B; within 8 minutes
    python -m benchmarks.speed.gpu --shape tiny --device cpu    that it runs: a minute on a CPU

The backbone is made on the device with random weights in the sizes of Qwen3-VL; nothing is downloaded. Frozen weights
are bfloat16, what trains is float32, products are bfloat16 by autocast, as in the recipe: LoRA on the language model,
in stage 1 the vision tower and its mergers trained, in stage 2 the tower frozen. A step has its optimizer's step.

    plain      what `stage1_step.py`, `stage2_case.py` and `thinking.py` compare with: whole sequences, two passes,
               all logits, transformers' own attention and generation
    share      operations in matrix products, those done twice included, over what a large product reaches here
    tokens/s   tokens of the task a second, so that both ways are counted alike: prefixes once, and thoughts

Cases come in the order of their worth. One that needs more memory than there is says so, and so does one that the time
does not suffice for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch.optim import AdamW

from benchmarks.fits import flops
from benchmarks.fits.flops import Video
from benchmarks.fits.prediction import TRAINED, choose
from benchmarks.speed import gpu_thoughts, stage1_step, stage2_case, thinking
from benchmarks.speed.bench import Bench, autocast, free, in_bf16, largest_product
from benchmarks.speed.gpu_thoughts import video_of
from benchmarks.speed.harness import padded_prefix, random_thought
from benchmarks.speed.shapes import SHAPES, random_model
from descore.model.reward_model import RewardModel
from descore.runtime.sharding import clip_by_norm
from tests.parity.plain import stock_attention

TINY = {"prefix": 120, "frames": 4, "side": 64, "thought": 12, "num_thoughts": 3, "product": 256, "lora_rank": 4}
"""Options of the tiny shape."""

LARGE = 60e9
"""Bytes of a GPU that takes the 8B."""


def stage1(bench: Bench) -> None:
    """Measure a step of stage 1: one pair, its activations made again, and kept."""
    options = bench.options
    model = trained(options, 1)
    prefixes = tuple(padded_prefix(model.processor, options, video) for video in "ab")
    thoughts = tuple(random_thought(model.processor, options.thought, video) for video in "ab")
    branches = model.processor.pack(prefixes, [[thought] for thought in thoughts]).to(options.device)
    case = stage1_step.Case(model, prefixes, thoughts, branches)
    optimizer = AdamW(_parameters(model), lr=1e-6)
    config, videos = model.base.config, [video_of(prefix, (options.thought + 1,)) for prefix in prefixes]
    tokens = branches.layout.num_tokens
    for name, again in (("stage 1 step", True), ("stage 1 step, activations kept", False)):
        _checkpoint(model, again)
        done = flops.update(config, videos, rank=options.lora_rank, vision_trains=True, checkpointing=again)
        for way, more in (("packed", 0.0), ("plain", flops.lm_head(config, tokens))):
            step = in_bf16(options, partial(_stage1_step, case, way, optimizer))
            bench.measure(name, way, step, tokens=tokens, operations=done + more)
    bench.say(_rewards(options, case))


def stage2(bench: Bench) -> None:
    """Measure a step of stage 2: one pair, n thoughts of each video, in its phases; and scoring."""
    options = bench.options
    model = trained(options, 2)
    _checkpoint(model, True)
    build = partial(stage2_case.build, model)
    with autocast(options):
        case = build(options)
        few = build(argparse.Namespace(**vars(options) | {"num_thoughts": options.plain_thoughts}))
    updates(bench, case, few)
    with thinking.write_in_full(model):
        name = f"think, {options.num_thoughts} thoughts of 2 videos"
        gpu_thoughts.write(bench, name, model, case.prefixes, options.num_thoughts)
        bench.together("stage 2 step", {"packed": (name, "think"), "plain": (name, "generate")}, "stage 2 update")
        gpu_thoughts.scores(bench, model, case.prefixes[0])


def updates(bench: Bench, case: stage2_case.Case, few: stage2_case.Case) -> None:
    """Measure what follows the thoughts; the plain way with a few of them, each of which costs it the same."""
    options, config = bench.options, case.model.base.config
    optimizer = AdamW(_parameters(case.model), lr=1e-6)
    num = options.num_thoughts
    videos = [video_of(prefix, (options.thought + 1,) * num) for prefix in case.prefixes]
    rows = 2 * num * (options.thought + 1)
    tokens = sum(video.num_tokens for video in videos)
    looked = flops.vision(config, videos)
    reference = flops.forward(config, videos, num_rows=rows)
    rank = options.lora_rank
    policy = flops.update(config, videos, rank=rank, num_rows=rows, checkpointing=True, logits_twice=True)
    whole = in_bf16(options, partial(_stage2_step, case, "packed", optimizer))
    bench.measure("stage 2 update", "packed", whole, tokens=tokens, operations=looked + reference + policy)
    share = num / few.rollouts.mask.shape[1]
    step = in_bf16(options, partial(_stage2_step, few, "published", optimizer))
    note = f"from {few.rollouts.mask.shape[1]} of {num} thoughts"
    operations = plain_update(config, [replace(video, branches=video.branches[:1]) for video in videos], rank) * num
    bench.measure(
        "stage 2 update", "plain", lambda: share * step(), tokens=tokens, operations=operations, repeats=1, note=note
    )
    look = in_bf16(options, partial(stage2_case.look, case))
    bench.measure("of it: vision", "packed", look, tokens=tokens, operations=looked)
    refer = in_bf16(options, lambda: stage2_case.reference_logprobs(case, stage2_case.look(case)))
    bench.measure("of it: vision and reference", "packed", refer, tokens=tokens, operations=looked + reference)


def plain_update(config: Any, videos: Sequence[Video], rank: int) -> float:
    """Operations of the published update for one thought of each video: an old and a reference pass, then two more."""
    tokens = sum(video.num_tokens for video in videos)
    seen, head = flops.vision(config, videos), flops.lm_head(config, tokens)
    passes = 2 * (seen + flops.forward(config, videos) + head) + flops.adapters(config, tokens, rank)
    updates = 2 * (seen + flops.update(config, videos, rank=rank, checkpointing=True))
    return passes + updates + head + 2 * head


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    console = Console(width=150)
    bench = Bench(options, largest_product(options))
    bench.say(_description(options, bench.peak))
    for name, stage in (("stage 1", stage1), ("stage 2", stage2)):
        try:
            stage(bench)
        except torch.OutOfMemoryError:
            bench.add(name, "", note="out of memory: nothing more of it")
        free(options.device)
    console.print(bench.table())
    bench.say(f"{bench.elapsed():.0f} s in all.")
    console.print("\n".join(bench.said))


def trained(options: argparse.Namespace, stage: int) -> RewardModel:
    """Make the model on the device, and choose what the stage trains."""
    model = random_model(SHAPES[options.shape], options.device, torch.bfloat16)
    stage2_case.untie(model)
    choose(model, TRAINED[stage], options.lora_rank)
    stage2_case.wake_adapter(model)
    return model.train()


def _stage1_step(case: stage1_step.Case, way: str, optimizer: AdamW) -> None:
    if way == "plain":
        with stock_attention(case.model):  # the backward pass too, where layers are made again
            stage1_step.step(case, way)
    else:
        stage1_step.step(case, way)
    _move(case.model, optimizer)


def _rewards(options: argparse.Namespace, case: stage1_step.Case) -> str:
    with autocast(options), torch.no_grad():
        packed, plain = (stage1_step.WAYS[way](case) for way in ("packed", "plain"))
    return f"Rewards of stage 1: packed {packed[:, 0].tolist()}, plain {plain[:, 0].tolist()}."


def _stage2_step(case: stage2_case.Case, way: str, optimizer: AdamW) -> None:
    case.model.train()
    stage2_case.update(case, way)
    _move(case.model, optimizer)


def _move(model: RewardModel, optimizer: AdamW) -> None:
    clip_by_norm(model, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _checkpoint(model: RewardModel, again: bool) -> None:
    if again:
        model.base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.base.gradient_checkpointing_disable()


def _parameters(model: RewardModel) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _description(options: argparse.Namespace, peak: float) -> str:
    device = torch.cuda.get_device_name() if torch.device(options.device).type == "cuda" else options.device
    return (
        f"{time.strftime('%Y-%m-%d')}, {device}, torch {torch.__version__}. Shape {options.shape}, LoRA of rank "
        f"{options.lora_rank}. A bf16 product of {options.product:,} squared reaches {peak / 1e12:.3g} TFLOP/s.\n"
        f"Prefix {options.prefix:,} tokens with {options.frames} frames of {options.side} squared, thoughts of "
        f"{options.thought:,}."
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", choices=["auto", "tiny", "2B", "8B", "32B"], default="auto", help="sizes of the backbone")
    add("--device", default="cuda", help="cuda or cpu")
    add("--budget", type=float, default=360, help="seconds after which no further case begins")
    add("--prefix", type=int, default=6200, help="tokens before a thought")
    add("--frames", type=int, default=50, help="frames of a video; 50 of 448 squared are 4,900 tokens")
    add("--side", type=int, default=448, help="side of a frame in pixels")
    add("--thought", type=int, default=1500, help="tokens of a thought; the published limit is 4,096")
    add("--num-thoughts", type=int, default=8, help="thoughts of a video")
    add("--plain-thoughts", type=int, default=1, help="of them, those that the plain way is updated on")
    add("--lora-rank", type=int, default=64, help="rank of the adapters of the language model")
    add("--product", type=int, default=8192, help="side of the matrices whose product is the peak")
    add("--repeats", type=int, default=3, help="runs of a step; the table shows the median")
    add("--markdown", action="store_true", help="print the table in Markdown")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a GPU, found none: --shape tiny --device cpu shows that this runs")
    if options.shape == "auto":
        options.shape = "8B" if options.device == "cuda" and torch.cuda.mem_get_info()[1] > LARGE else "2B"
    if options.shape == "tiny":
        parser.set_defaults(**TINY)
        options = parser.parse_args(arguments)
    return options


if __name__ == "__main__":
    main()
