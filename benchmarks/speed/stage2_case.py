"""One pair with made-up thoughts, and two ways to update a model on it: as `RLModule` does, and as published.

    packed     every video once through the frozen vision tower; the reference and the policy in one packed forward
               each; the old log-probabilities are the sampler's
    published  for every thought an old and a reference pass; then, thought by thought, one pass with `<Reward>` for the
               calibration loss and one without for the policy loss. Each of them looks at its video again, and makes
               the logits of all positions, by transformers' own forward

Both have the same losses with the same weights, so their gradients must be equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from benchmarks.speed.harness import PROMPT, padded_prefix, random_thought
from descore.advantages import group_advantages
from descore.inputs.processor import Processor, prefixes_of
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.model.trainable import make_trainable
from descore.objectives.algorithms import ALGORITHMS
from descore.objectives.dual import DualObjective, Losses, Shares
from descore.seeding import generator
from descore.thinking.rollouts import Rollouts
from descore.types import Branches, Group, Pair, Prefix, Side, Thought
from tests.parity.plain import inputs_of, plain_sequence, stock_attention

SAMPLING = Sampling(temperature=1.0)
KL_WEIGHT, CALIBRATION_WEIGHT = 1e-5, 5e-3
PAIRS = [0]
"""The mini-batch: one pair."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, and a pair whose thoughts are sampled and graded.

    Attributes:
        model: The policy, trained by LoRA; with its adapter off it is the reference.
        prefixes: Of A and of B, as the published way reads them.
        videos: The same, packed.
        rollouts: Their thoughts; not looked at yet.
        objective: The losses.
    """

    model: RewardModel
    prefixes: tuple[Prefix, ...]
    videos: Branches
    rollouts: Rollouts
    objective: DualObjective


def packed(case: Case) -> Tensor:
    rollouts = look(case)
    return policy(case, rollouts, reference_logprobs(case, rollouts))


@torch.no_grad()
def look(case: Case) -> Rollouts:
    """Run the frozen vision tower once over every video."""
    return replace(case.rollouts, seen=case.model.see(case.videos))


@torch.no_grad()
def reference_logprobs(case: Case, rollouts: Rollouts) -> Tensor:
    """Log-probabilities of all thoughts with the adapter off, packed, `[M]`."""
    branches, seen = rollouts.pack(case.model.processor, PAIRS)
    with _adapter_off(case.model):
        logprobs: Tensor = case.model(branches, with_logprobs=True, sampling=SAMPLING, seen=seen).logprobs
    return logprobs


def policy(case: Case, rollouts: Rollouts, reference: Tensor) -> Tensor:
    """Forward and backward pass of the policy: policy loss, KL and calibration loss, `[3]`."""
    branches, seen = rollouts.pack(case.model.processor, PAIRS)
    forward = case.model(branches, with_logprobs=True, sampling=SAMPLING, seen=seen)
    losses = case.objective(
        rollouts,
        PAIRS,
        case.objective.shares(rollouts, PAIRS),
        rollouts.by_token(forward.logprobs, PAIRS),
        forward.rewards.view(2, -1, forward.rewards.shape[1]),
        rollouts.by_token(reference, PAIRS),
    )
    return _backward(losses)


def published(case: Case) -> Tensor:
    shares = case.objective.shares(case.rollouts, PAIRS)
    # The backward pass too: with checkpointing it calls the attention again.
    with stock_attention(case.model):
        with torch.no_grad():
            old = _plain_logprobs(case)
            with _adapter_off(case.model):
                reference = _plain_logprobs(case)
        rollouts = replace(case.rollouts, old_logprobs=old)
        num_thoughts = old.shape[1]
        return torch.stack([_thought_update(case, rollouts, shares, reference, k) for k in range(num_thoughts)]).sum(0)


UPDATES: dict[str, Callable[[Case], Tensor]] = {"packed": packed, "published": published}


def update(case: Case, way: str) -> Tensor:
    """Leave the gradients of one update in the parameters; return policy loss, KL and calibration loss, `[3]`."""
    case.model.zero_grad()
    return UPDATES[way](case)


def create(options: argparse.Namespace) -> RewardModel:
    """Load the backbone of `options.backbone`, and train its language model by LoRA, its query row and its head."""
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    model = RewardModel.create(ModelSettings(options.backbone, "{prompt}"))
    untie(model)
    make_trainable(
        model,
        ["language", "query", "head"],
        lora_parts=["language"],
        lora_rank=options.lora_rank,
        lora_alpha=2 * options.lora_rank,
    )
    wake_adapter(model)
    if options.checkpointing:
        model.base.gradient_checkpointing_enable({"use_reentrant": False})
    return model.to(options.device).train()


def wake_adapter(model: RewardModel) -> None:
    """Draw the half of LoRA that starts at 0: it would leave the other half without a gradient, and no KL."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            drawn = torch.empty(parameter.shape).normal_(0, 0.02, generator=generator(0, name))
            parameter.data.copy_(drawn)


def build(model: RewardModel, options: argparse.Namespace) -> Case:
    """Make up a pair and its rollouts; `options` says how long they are and how many."""
    processor = model.processor
    prefixes = tuple(padded_prefix(processor, options, video) for video in "ab")
    thoughts = [
        [random_thought(processor, options.thought, f"{video}{k}") for k in range(options.num_thoughts)]
        for video in "ab"
    ]
    videos = processor.pack(prefixes, [()] * 2).to(options.device)
    rollouts = _roll_out(model, prefixes_of(videos), thoughts)
    objective = DualObjective(ALGORITHMS["descore"], max_tokens=options.thought + 1)
    return Case(model, prefixes, videos, rollouts, objective)


def _thought_update(case: Case, rollouts: Rollouts, shares: Shares, reference: Tensor, k: int) -> Tensor:
    """Add the gradients of thought k of A and of B."""
    one = slice(k, k + 1)
    rollouts = replace(
        rollouts,
        advantages=rollouts.advantages[:, one],
        old_logprobs=rollouts.old_logprobs[:, one],
        mask=rollouts.mask[:, one],
    )
    pairs = [(prefix, group.thoughts[k]) for prefix, group in zip(case.prefixes, rollouts.groups, strict=True)]
    rewards = torch.stack([plain_sequence(case.model, *pair)[0] for pair in pairs])
    logprobs = torch.stack([_sequence_logprobs(case.model, *pair) for pair in pairs])
    losses = case.objective(
        rollouts,
        PAIRS,
        Shares(shares.tokens[:, one], shares.preference),
        logprobs[:, None],
        rewards[:, None],
        reference[:, one],
    )
    return _backward(losses)


def _plain_logprobs(case: Case) -> Tensor:
    """Log-probabilities of all thoughts, `[2, n, T]`, sequence by sequence."""
    rows = [
        [_sequence_logprobs(case.model, prefix, thought) for thought in group.thoughts]
        for prefix, group in zip(case.prefixes, case.rollouts.groups, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def _sequence_logprobs(model: RewardModel, prefix: Prefix, thought: Thought) -> Tensor:
    """Log-probabilities `[T]` of a thought and its end of turn, from the logits of `[prefix | thought]`."""
    processor = model.processor
    logits = model.base(**inputs_of(model, prefix, list(thought.token_ids)), use_cache=False).logits[0]
    device = logits.device
    forbidden = torch.tensor(processor.forbidden_ids, device=device)
    targets = torch.tensor([*thought.token_ids, processor.end_id], device=device)
    own: Tensor = logits[-len(targets) :].index_fill(1, forbidden, -torch.inf)
    return own.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def _backward(losses: Losses) -> Tensor:
    total = losses.policy + KL_WEIGHT * losses.kl + CALIBRATION_WEIGHT * losses.calibration
    total.backward()  # type: ignore[no-untyped-call]
    return torch.stack([losses.policy, losses.kl, losses.calibration]).detach()


@torch.no_grad()
def _roll_out(model: RewardModel, prefixes: list[Prefix], thoughts: list[list[Thought]]) -> Rollouts:
    """Give thoughts the log-probabilities and rewards that their sampler would have, and rollout rewards by lot."""
    shape = len(thoughts), len(thoughts[0])
    forward = model(model.processor.pack(prefixes, thoughts), with_logprobs=True, sampling=SAMPLING)
    old = forward.logprobs.view(*shape, -1)
    rewards = torch.rand(shape, dtype=torch.float64, generator=generator(0, "rollout rewards")).to(old.device)
    groups = tuple(
        Group(tuple(some), tuple(map(_text(model.processor), some)), tuple(logprobs), scored)
        for some, logprobs, scored in zip(thoughts, old, forward.rewards.view(*shape, -1), strict=True)
    )
    return Rollouts(
        pairs=(Pair("0", PROMPT, Side("a"), Side("b"), (1.0,)),),
        preference=torch.ones(1, 1, device=old.device),
        groups=groups,
        rewards=rewards,
        parts={},
        advantages=group_advantages(rewards),
        old_logprobs=old,
        mask=torch.ones_like(old, dtype=torch.bool),
        prefixes=tuple(prefixes),
        seen=None,
    )


def _text(processor: Processor) -> Callable[[Thought], str]:
    return lambda thought: processor.tokenizer.decode(thought.token_ids)


def untie(model: RewardModel) -> None:
    """Give `lm_head` weights of its own, as an 8B has: where the query row trains, PEFT would train it there too."""
    output = model.base.get_output_embeddings()
    output.weight = nn.Parameter(output.weight.detach().clone())
    for config in (model.base.config, model.base.config.get_text_config()):
        config.tie_word_embeddings = False


def _adapter_off(model: RewardModel) -> Any:
    network: Any = model.network
    return network.disable_adapter()
