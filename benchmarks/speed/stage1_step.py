"""A step of stage 1 on one pair, forward, loss and backward: our packed forward against the plain way.

    python -m benchmarks.speed.stage1_step --thought 300

All ways lead to the same two rewards and the same gradients, which is checked first:

    packed     both videos in one call of `RewardModel`; lm_head never runs
    two calls  one call of transformers' forward per video; lm_head runs at the last position only
    plain      the same with the logits of every position, which nothing uses, as in the published code

The backbone is a small Qwen3-VL with random weights, in float32.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.speed.harness import Benchmark, argument_parser, build_model, compare, padded_prefix, random_thought
from descore.losses import bradley_terry_loss
from descore.model.reward_model import RewardModel
from descore.types import Branches, Prefix, Thought
from tests.parity.plain import plain_sequence, stock_attention


@dataclass(frozen=True, slots=True)
class Case:
    """A model and one pair, as both ways read it."""

    model: RewardModel
    prefixes: tuple[Prefix, ...]
    thoughts: tuple[Thought, ...]
    branches: Branches


def build(options: argparse.Namespace) -> Case:
    # The query row does not train: PEFT would copy the whole embedding for it, twice as often in the plain way.
    model = build_model(options, ["language", "vision", "merger", "head"])
    prefixes = tuple(padded_prefix(model.processor, options, video) for video in "ab")
    thoughts = tuple(random_thought(model.processor, options.thought, video) for video in "ab")
    branches = model.processor.pack(prefixes, [[thought] for thought in thoughts]).to(options.device)
    return Case(model, prefixes, thoughts, branches)


def packed(case: Case) -> Tensor:
    return _backward(case, case.model(case.branches).rewards)


def two_calls(case: Case) -> Tensor:
    return _sequences(case, logits_to_keep=1)


def plain(case: Case) -> Tensor:
    return _sequences(case, logits_to_keep=0)


def _sequences(case: Case, *, logits_to_keep: int) -> Tensor:
    # Only the rewards are kept, so the logits of A are freed before B is read: kinder than the published code.
    pairs = zip(case.prefixes, case.thoughts, strict=True)
    with stock_attention(case.model):  # in the backward pass too, where activations may be recomputed
        sequences = [plain_sequence(case.model, *pair, logits_to_keep=logits_to_keep)[0] for pair in pairs]
        return _backward(case, torch.stack(sequences))


def _backward(case: Case, rewards: Tensor) -> Tensor:
    """Leave the gradients of the Bradley-Terry loss in the model; return the rewards `[2, 1]`."""
    case.model.zero_grad()
    bradley_terry_loss(rewards[0], rewards[1], torch.ones_like(rewards[0])).mean().backward()
    return rewards.detach()


BENCHMARK = Benchmark(build, {"packed": packed, "two calls": two_calls, "plain": plain})


if __name__ == "__main__":
    parser = argument_parser(__doc__, width=256, vocabulary=151_936, prefix=1776, frames=10, thought=1500, lora_rank=0)
    compare(BENCHMARK, parser.parse_args())
