"""An update of stage 2 on one pair: the data flow of `RLModule` against the published one, written plainly.

    python -m benchmarks.speed.stage2_update --num-thoughts 16 --prefix 2560

Both have the same losses with the same weights; losses and gradients must agree before anything is timed:

    packed     every video once through the frozen vision tower; one packed forward of the reference and one of the
               policy; the old log-probabilities are the sampler's
    published  for every thought an old and a reference pass; then, thought by thought, one pass for the policy loss and
               one for the calibration loss. Each reads its video again and makes the logits of all positions, by
               transformers' own forward

The backbone is a small Qwen3-VL with random weights, in float32, with LoRA on its language model and a frozen vision
tower. Thoughts and advantages are random; sampling is not part of an update. `--num-thoughts` and `--prefix` show how
the gain grows with what the thoughts share.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.speed.harness import Benchmark, argument_parser, build_model, compare, padded_prefix, random_thought
from descore.losses import bradley_terry_loss, kl_divergence, policy_loss
from descore.model.reward_model import RewardModel
from descore.seeding import generator
from descore.types import Branches, Prefix, Thought
from tests.parity.plain import plain_forward, stock_attention

KL_WEIGHT, CALIBRATION_WEIGHT = 1e-5, 5e-3


@dataclass(frozen=True, slots=True)
class Case:
    """A model and one pair with n thoughts of T tokens, the end of turn included, for each of its two videos.

    Attributes:
        model: Policy, trained by LoRA; with its adapter off it is the reference.
        prefixes: Prefixes of A and B.
        thoughts: Thoughts of A and of B.
        branches: The same, packed.
        advantages: `[2, n]`.
        old_logprobs: `[2, n, T]`, as the sampler gave them.
    """

    model: RewardModel
    prefixes: tuple[Prefix, ...]
    thoughts: list[list[Thought]]
    branches: Branches
    advantages: Tensor
    old_logprobs: Tensor


def build(options: argparse.Namespace) -> Case:
    # The query row does not train: PEFT would copy the whole embedding for it in every forward of the published way.
    model = build_model(options, ["language", "head"])
    prefixes = tuple(padded_prefix(model.processor, options, video) for video in "ab")
    names = [[f"{video}{number}" for number in range(options.num_thoughts)] for video in "ab"]
    thoughts = [[random_thought(model.processor, options.thought, name) for name in row] for row in names]
    branches = model.processor.pack(prefixes, thoughts).to(options.device)
    with torch.no_grad():
        old = model(branches, with_logprobs=True).logprobs.view(2, options.num_thoughts, -1)
    advantages = torch.randn(2, options.num_thoughts, generator=generator(0, "advantages")).to(options.device)
    return Case(model, prefixes, thoughts, branches, advantages, old)


def packed(case: Case) -> Tensor:
    case.model.zero_grad()
    with torch.no_grad():
        seen = case.model.see(case.branches)
        with case.model.network.disable_adapter():
            reference = case.model(case.branches, with_logprobs=True, seen=seen).logprobs
    policy = case.model(case.branches, with_logprobs=True, seen=seen)
    logprobs, rewards = policy.logprobs.view_as(case.old_logprobs), policy.rewards.view(2, -1)
    return _backward(logprobs, rewards, case.old_logprobs, reference.view_as(logprobs), case.advantages)


def published(case: Case) -> Tensor:
    case.model.zero_grad()
    num_thoughts = case.advantages.shape[1]
    losses = torch.zeros(3, device=case.advantages.device)
    with stock_attention(case.model):  # in the backward pass too, where activations may be recomputed
        with torch.no_grad():
            old = torch.stack([_pass(case, number)[1] for number in range(num_thoughts)], 1)
            with case.model.network.disable_adapter():
                reference = torch.stack([_pass(case, number)[1] for number in range(num_thoughts)], 1)
        for number in range(num_thoughts):
            one = slice(number, number + 1)
            (rewards, _), (_, logprobs) = _pass(case, number), _pass(case, number)
            inputs = (old[:, one], reference[:, one], case.advantages[:, one])
            losses += _backward(logprobs[:, None], rewards, *inputs, share=1 / num_thoughts)
    return losses


def _pass(case: Case, number: int) -> tuple[Tensor, Tensor]:
    """Rewards `[2, 1]` and log-probabilities `[2, T]` of one thought of A and of B, sequence by sequence."""
    pairs = zip(case.prefixes, case.thoughts, strict=True)
    rewards, logprobs = zip(*(plain_forward(case.model, prefix, some[number]) for prefix, some in pairs), strict=True)
    return torch.stack(rewards), torch.stack(logprobs)


def _backward(
    logprobs: Tensor, rewards: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, share: float = 1.0
) -> Tensor:
    """Leave the gradients of some of the thoughts in the model; return policy loss, KL and calibration loss, `[3]`.

    Args:
        logprobs: `[2, m, T]` log-probabilities of m thoughts of A and of B.
        rewards: `[2, m]` their rewards; A is preferred.
        old: `[2, m, T]` log-probabilities when they were sampled.
        reference: `[2, m, T]` log-probabilities under the reference.
        advantages: `[2, m]`.
        share: The m thoughts as a share of all; thoughts have equal lengths.
    """
    rows, everything = [part.flatten(0, 1) for part in (logprobs, old)], torch.ones_like(old).flatten(0, 1)
    policy, _ = policy_loss(*rows, advantages.flatten(), everything)
    kl = kl_divergence(logprobs, reference).mean()
    calibration = bradley_terry_loss(*rewards, torch.ones_like(rewards[0])).mean()
    (share * (policy + KL_WEIGHT * kl + CALIBRATION_WEIGHT * calibration)).backward()
    return share * torch.stack([policy, kl, calibration]).detach()


BENCHMARK = Benchmark(build, {"packed": packed, "published": published})


if __name__ == "__main__":
    parser = argument_parser(__doc__, vocabulary=3288, prefix=1280, frames=10, side=320, thought=300)
    parser.add_argument("--num-thoughts", type=int, default=8, help="thoughts per video")
    compare(BENCHMARK, parser.parse_args())
