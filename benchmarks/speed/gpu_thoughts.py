"""Cases of `benchmarks/speed/gpu.py` that think or score: from one prefill and its cache, and as transformers would."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.fits import flops
from benchmarks.fits.flops import Video
from benchmarks.speed import thinking
from benchmarks.speed.bench import Bench, autocast, in_bf16
from benchmarks.speed.harness import random_thought
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.types import Prefix, Thought
from tests.parity.plain import plain_sequence, stock_attention

FEW = 64
"""Tokens that the plain way writes; what it takes for a whole thought follows."""


def write(bench: Bench, name: str, model: RewardModel, prefixes: tuple[Prefix, ...], num_thoughts: int) -> None:
    """Measure thinking in full, and what the plain way takes as long for, from two short ones."""
    options, config = bench.options, model.base.config
    case = _case(model, prefixes, options, num_thoughts)
    videos = [video_of(prefix, (options.thought + 1,) * num_thoughts) for prefix in prefixes]
    written = len(prefixes) * num_thoughts * options.thought
    head = flops.lm_head(config, written)
    done = flops.vision(config, videos) + flops.forward(config, videos, rank=options.lora_rank) + head
    think = in_bf16(options, partial(thinking.ours, case))
    bench.measure(name, "think", think, tokens=written, operations=done, repeats=1)
    alone = [Video(video.prefix, 0, 0, (options.thought + 1,)) for video in videos for _ in range(num_thoughts)]
    plain = flops.vision(config, videos) + flops.forward(config, alone, rank=options.lora_rank) + head
    generate = partial(_generate_seconds, options, case)
    note = f"without rewards; from 1 and {_few(options)} tokens"
    bench.measure(name, "generate", generate, tokens=written, operations=plain, repeats=1, note=note)


def scores(bench: Bench, model: RewardModel, prefix: Prefix) -> None:
    """Measure the scoring of one video: without a thought, a reward after one, and the thought with it."""
    options, config, no_thought = bench.options, model.base.config, Thought()
    branches = model.processor.pack([prefix], [[no_thought]]).to(options.device)
    video, tokens = video_of(prefix, (1,)), branches.layout.num_tokens
    once = flops.vision(config, [video]) + flops.forward(config, [video], rank=options.lora_rank)
    ours = in_bf16(options, torch.no_grad()(lambda: model.eval()(branches).rewards))
    bench.measure("score without a thought", "packed", ours, tokens=tokens, operations=once)
    plain = in_bf16(options, partial(_plain_score, model, prefix, no_thought))
    more = flops.lm_head(config, tokens)
    bench.measure("score without a thought", "plain", plain, tokens=tokens, operations=once + more)
    thought = random_thought(model.processor, options.thought, "score")
    video = video_of(prefix, (options.thought + 1,))
    one = flops.forward(config, [Video(0, 0, 0, (1,))], rank=options.lora_rank)
    read = options.prefix + options.thought
    reward = "reward of a thought"

    cached = _shortened(_case(model, (prefix,), options, 1), _few(options))

    def last_step() -> float:
        with autocast(options):
            return float(thinking.from_cache(cached)[0])

    note = f"after {_few(options)} tokens"
    bench.measure(reward, "from cache", last_step, tokens=read, operations=one, note=note)
    rerun = in_bf16(options, partial(_plain_score, model, prefix, thought))
    again = flops.vision(config, [video]) + flops.forward(config, [video], rank=options.lora_rank)
    again += flops.lm_head(config, video.num_tokens)
    bench.measure(reward, "plain", rerun, tokens=read, operations=again)
    write(bench, "think, 1 thought of a video", model, (prefix,), 1)


def video_of(prefix: Prefix, branches: tuple[int, ...]) -> Video:
    _, rows, columns = prefix.grid.tolist()
    return Video(len(prefix.input_ids), len(prefix.patches), rows * columns, branches)


def _plain_score(model: RewardModel, prefix: Prefix, thought: Thought) -> Tensor:
    with stock_attention(model), torch.no_grad():
        return plain_sequence(model.eval(), prefix, thought)[0]


def _generate_seconds(options: argparse.Namespace, case: thinking.Case) -> float:
    """Seconds that transformers takes for whole thoughts: for a first token, and for each of the others."""
    case.model.eval()
    short, longer = (
        in_bf16(options, partial(thinking.generate, _shortened(case, size)))() for size in (1, _few(options))
    )
    return short + (longer - short) / (_few(options) - 1) * (case.sampling.max_tokens or 1)


def _shortened(case: thinking.Case, num_tokens: int) -> thinking.Case:
    return replace(case, sampling=replace(case.sampling, max_tokens=num_tokens))


def _few(options: argparse.Namespace) -> int:
    return min(FEW, int(options.thought))


def _case(
    model: RewardModel, prefixes: tuple[Prefix, ...], options: argparse.Namespace, num_thoughts: int
) -> thinking.Case:
    return thinking.case_of(model, prefixes, Sampling(num_thoughts, options.thought, temperature=1.0))
