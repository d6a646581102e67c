"""Thoughts of a video and their rewards: `think` against transformers' `generate` and a full pass per reward.

    python -m benchmarks.thinking --help

Four ways, two and two to the same end:

    think       all thoughts from one prefill of each video, and their rewards
    generate    transformers' own sampling, attention and cache, without rewards; prefills a copy per thought
    from cache  what a reward costs in `think`: one forward of `<Reward>` for all thoughts, divided by their number
    re-run      transformers' own forward of `[prefix | thought <Reward>]` with its vision tower: the published code

The backbone is a small Qwen3-VL with random weights, float32. A hook on its `lm_head` takes all probability from the end
of turn, and from the tokens that no thought may hold. Both sides run this one hook, and `generate` forbids nothing else:
they draw from the same distribution and write thoughts of full length. Greedy thoughts must be equal token by token, and
the rewards of sampled ones must agree, before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.harness import (
    PROMPT,
    Seconds,
    argument_parser,
    create_model,
    medians,
    now,
    random_frames,
    result_table,
    timed,
    write_backbone,
)
from descore.model import RewardModel
from descore.think import Sampling, think
from descore.types import Branches, Group, Prefix, Thought
from tests.parity.plain import inputs_of, plain_sequence, stock_attention

TOLERANCE = 1e-5
"""How far the rewards of two ways may be apart."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and videos to think about, as `think` and as `generate` take them."""

    model: RewardModel
    prefixes: tuple[Prefix, ...]
    videos: Branches
    inputs: dict[str, Tensor]
    num_thoughts: int
    num_tokens: int

    @property
    def num_sequences(self) -> int:
        return len(self.prefixes) * self.num_thoughts


@dataclass(frozen=True, slots=True)
class Work:
    """What a way does besides decoding."""

    num_vision_calls: int
    num_prefill_tokens: int


def ours(case: Case) -> list[Group]:
    return think(case.model, case.videos, Sampling(case.num_thoughts, case.num_tokens, temperature=1.0))


def generate(case: Case) -> Tensor:
    """Sample as `ours` does: `[V * n, R]`."""
    return _generate(case, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, num_return_sequences=case.num_thoughts)


def rerun(case: Case, prefix: Prefix, thought: Thought) -> Tensor:
    """Score one thought: `[1]`."""
    with stock_attention(case.model), torch.no_grad():
        return plain_sequence(case.model, prefix, thought, logits_to_keep=1)[0]


def from_cache(case: Case) -> Seconds:
    """Run `think`, and say what one thought's share of its last forward took, from `<Reward>` fed to its reward."""
    marks: list[Seconds] = []

    def mark(*_: object) -> None:
        marks.append(now())

    # All thoughts end at the same length: one last forward for all of them, then the head once per video.
    with case.model.base.model.register_forward_pre_hook(mark), case.model.head.register_forward_hook(mark):
        fed, scored = (ours(case), marks[-len(case.prefixes) - 1 :])[1][:2]
    return (scored - fed) / case.num_sequences
