"""One stage-1 step of one pair, forward, loss and backward: our packed forward against the plain way.

    python -m benchmarks.speed.stage1_step --help

Three ways to the same two rewards, so that the reader sees where a gain comes from:

    packed     both videos in one call of `RewardModel`; lm_head never runs
    two calls  one call of transformers' forward per video; lm_head runs at the last position only
    plain      the same with the logits of every position, which nothing uses: the published code

The backbone is a small Qwen3-VL with random weights, float32. Rewards must agree before anything is timed.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.harness import (
    PROMPT,
    argument_parser,
    create_model,
    in_fresh_process,
    medians,
    random_frames,
    random_thought,
    result_table,
    timed,
    write_backbone,
)
from descore.losses.preference import bradley_terry_loss
from descore.model.reward_model import RewardModel
from descore.model.trainable import Part, make_trainable
from descore.types import Branches, Prefix, Thought
from tests.parity.plain import plain_sequence, stock_attention

TOLERANCE = 1e-4
"""How far the rewards of two ways may be apart."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and one pair for it."""

    model: RewardModel
    prefixes: tuple[Prefix, ...]
    thoughts: tuple[Thought, ...]
    branches: Branches


def packed(case: Case) -> Tensor:
    rewards: Tensor = case.model(case.branches).rewards
    return rewards


def two_calls(case: Case) -> Tensor:
    return _sequences(case, logits_to_keep=1)


def plain(case: Case) -> Tensor:
    return _sequences(case, logits_to_keep=0)


WAYS = {"packed": packed, "two calls": two_calls, "plain": plain}


def step(case: Case, way: str) -> None:
    case.model.zero_grad()
    reward_a, reward_b = WAYS[way](case)
    bradley_terry_loss(reward_a, reward_b, torch.ones_like(reward_a)).mean().backward()  # type: ignore[no-untyped-call]


def build(options: argparse.Namespace, num_thought_tokens: int) -> Case:
    model = create_model(options.backbone, options.threads)
    # The query row stays as it is: to train it PEFT copies the whole embedding, in the plain way twice as often.
    in_lora: list[Part] = ["language"] if options.lora_rank else []
    parts: list[Part] = ["language", "vision", "merger", "head"]
    make_trainable(model, parts, lora_parts=in_lora, lora_rank=options.lora_rank, lora_alpha=2 * options.lora_rank)
    model.to(options.device).train()
    prefixes = tuple(model.processor.prefix(PROMPT, random_frames(options, video)) for video in "ab")
    thoughts = tuple(random_thought(model.processor, num_thought_tokens, video) for video in "ab")
    branches = model.processor.pack(prefixes, [[thought] for thought in thoughts])
    return Case(model, prefixes, thoughts, branches.to(options.device))


def check_rewards(case: Case) -> None:
    """Stop unless every way gives the rewards of `packed`, and the two videos have different ones."""
    with torch.no_grad():
        rewards = {way: WAYS[way](case) for way in WAYS}
    apart = max(float((other - rewards["packed"]).abs().max()) for other in rewards.values())
    margin = float((rewards["packed"][0] - rewards["packed"][1]).abs().min())
    if not apart <= TOLERANCE <= margin / 10:
        raise SystemExit(f"expected rewards within {TOLERANCE} of each other and a clear margin, got {rewards}")


def seconds(case: Case, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median time of a step, by the clock and of the CPU."""
    taken = medians({way: partial(timed, partial(step, case, way)) for way in WAYS}, repeats)
    by_clock, by_cpu = ({way: float(taken[way][kind]) for way in WAYS} for kind in (0, 1))
    return by_clock, by_cpu


def gigaflops(case: Case, way: str) -> float:
    """10^9 operations in the matrix products of a step; on CPU those of the attention are not counted."""
    with FlopCounterMode(display=False) as counter:
        step(case, way)
    return float(counter.get_total_flops()) / 1e9


def peak_memory(options: argparse.Namespace, num_thought_tokens: int, way: str) -> float:
    """Most memory that a fresh process held for one step, its model included, in GB; on a GPU what torch allocated."""
    return in_fresh_process(_peak_of_this_process, options, num_thought_tokens, way)


def main() -> None:
    options = _options()
    columns = ("thought", "way", "seconds", "ratio", "CPU s", "ratio", "GFLOP", "ratio", "peak GB")
    table = result_table(*columns, words=["way"], markdown=options.markdown)
    with tempfile.TemporaryDirectory() as folder:
        options.backbone = folder
        write_backbone(folder, options)
        # A child's peak starts at that of its parent: memory first, before anything large is in this process.
        memory = {(size, way): peak_memory(options, size, way) for size in options.thoughts for way in WAYS}
        for size in options.thoughts:
            case = build(options, size)
            check_rewards(case)
            operations = {way: gigaflops(case, way) for way in WAYS}  # also the warm-up
            clock, processor = seconds(case, options.repeats)
            for way in WAYS:
                cells = _with_ratio(clock, way, 2) + _with_ratio(processor, way, 2) + _with_ratio(operations, way, 0)
                table.add_row(str(size), way, *cells, f"{memory[size, way]:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(_explanation(options, case, operations))


def _with_ratio(values: dict[str, float], way: str, digits: int) -> tuple[str, str]:
    return f"{values[way]:.{digits}f}", f"{values[way] / values['packed']:.2f}"


def _explanation(options: argparse.Namespace, case: Case, operations: dict[str, float]) -> str:
    """Say what the ratios consist of."""
    num_prefix, num_thought = len(case.prefixes[0].input_ids), len(case.thoughts[0].token_ids)
    num_video = int(case.prefixes[0].grid.prod()) // 4
    logits = (num_prefix + num_thought + 1) * options.vocabulary * 4 / 1e9
    share = 1 - operations["two calls"] / operations["plain"]
    return (
        f"Prefix {num_prefix} tokens, {num_video} of them video. With a thought of {num_thought} tokens the logits of\n"
        f"one sequence are {logits:.2f} GB, and all logits {share:.0%} of the plain way's GFLOP.\n"
        "'plain' over 'two calls' is the price of the logits; it follows the share of lm_head in the weights, 8% of\n"
        "an 8B. 'two calls' over 'packed' is what one call for both videos saves; below 1 it costs."
    )


def _sequences(case: Case, *, logits_to_keep: int) -> Tensor:
    # Only the reward of each call is kept, so that the logits of A are gone before B: kinder than the published code.
    pairs = zip(case.prefixes, case.thoughts, strict=True)
    with stock_attention(case.model):
        return torch.stack([plain_sequence(case.model, *pair, logits_to_keep=logits_to_keep)[0] for pair in pairs])


def _peak_of_this_process(options: argparse.Namespace, num_thought_tokens: int, way: str) -> float:
    case = build(options, num_thought_tokens)
    step(case, way)
    if options.device != "cpu":
        return torch.cuda.max_memory_allocated(options.device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def _options() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--thoughts", type=int, nargs="+", default=[300, 600, 1500], help="lengths of a thought, in tokens")
    add("--lora-rank", type=int, default=0, help="train the language model by LoRA of this rank; 0 trains it in full")
    return parser.parse_args()


if __name__ == "__main__":
    main()
