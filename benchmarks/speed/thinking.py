"""Thoughts of a video and their rewards: `think` against transformers' `generate` and a full pass for each reward.

    python -m benchmarks.speed.thinking --thought 300 --videos 2

    think     all thoughts from one prefill of each video, and each reward from the cache its thought was written in
    generate  transformers' own sampling, attention and cache, without rewards; it prefills a copy for every thought
    plain     generate, then for every thought transformers' own forward of `[prefix | thought <Reward>]` with its
              vision tower, as in the published code but without the logits of every position

The backbone is a small Qwen3-VL with random weights, in float32. A hook on its `lm_head` takes all probability from the
end of turn and from the tokens that no thought may hold, so both sides draw from the same distribution and write
thoughts of full length. Before anything is timed, greedy thoughts must be equal token by token (in float32), and the
rewards of the same thoughts must agree.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.harness import Benchmark, argument_parser, build_model, compare, padded_prefix
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.thinking.think import think
from descore.types import Branches, Group, Prefix, Thought
from tests.parity.plain import inputs_of, plain_sequence, stock_attention


@dataclass(frozen=True, slots=True)
class Case:
    """A model and videos to think about.

    Attributes:
        model: The model.
        prefixes: The videos.
        videos: The same as `think` reads them.
        inputs: The same as `generate` reads them.
        sampling: How thoughts are sampled.
        groups: What `think` wrote.
    """

    model: RewardModel
    prefixes: tuple[Prefix, ...]
    videos: Branches
    inputs: dict[str, Tensor]
    sampling: Sampling
    groups: list[Group]


def build(options: argparse.Namespace) -> Case:
    model = build_model(options, ["language", "head"]).eval()
    _write_in_full(model)
    prefixes = tuple(padded_prefix(model.processor, options, str(index)) for index in range(options.videos))
    videos = model.processor.pack(prefixes, [[Thought()]] * len(prefixes)).to(options.device)
    single = [inputs_of(model, prefix, []) for prefix in prefixes]
    inputs = {name: torch.cat([one[name] for one in single]) for name in single[0]}
    sampling = Sampling(options.num_thoughts, options.thought, temperature=1.0)
    case = Case(model, prefixes, videos, inputs, sampling, think(model, videos, sampling))
    if not options.mixed:
        _check_greedy(case)
    return case


def ours(case: Case) -> Tensor:
    return torch.cat([group.rewards for group in think(case.model, case.videos, case.sampling)])


def generate(case: Case) -> None:
    # Unless told otherwise, transformers draws from the 50 most probable tokens only.
    distribution = {"temperature": case.sampling.temperature, "top_k": 0, "top_p": 1.0}
    written = _generate(case, do_sample=True, num_return_sequences=case.sampling.num_thoughts, **distribution)
    expected = (len(case.prefixes) * case.sampling.num_thoughts, case.sampling.max_tokens)
    if written.shape != expected:
        raise SystemExit(f"expected generate to write thoughts and tokens {expected}, got {tuple(written.shape)}")


def plain(case: Case) -> Tensor:
    """Generate thoughts, but score those of `think`, which are as long: their rewards can be compared."""
    generate(case)
    pairs = [(prefix, one) for prefix, group in zip(case.prefixes, case.groups, strict=True) for one in group.thoughts]
    with stock_attention(case.model), torch.no_grad():
        return torch.stack([plain_sequence(case.model, *pair, logits_to_keep=1)[0] for pair in pairs])


def _write_in_full(model: RewardModel) -> None:
    """Take all probability from the end of turn and from what no thought may hold, whoever calls `lm_head`."""
    never = [*model.processor.forbidden_ids, model.processor.end_id]
    model.base.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, logits: logits.index_fill(-1, torch.tensor(never, device=logits.device), -torch.inf)
    )


def _check_greedy(case: Case) -> None:
    groups = think(case.model, case.videos, replace(case.sampling, num_thoughts=1, temperature=0.0))
    found, expected = [list(group.thoughts[0].token_ids) for group in groups], _generate(case, do_sample=False).tolist()
    if found != expected:
        raise SystemExit(f"expected think to write the greedy tokens of generate, {expected}, got {found}")


def _generate(case: Case, **options: Any) -> Tensor:
    """Run transformers' own generation on all videos; return the new tokens."""
    num_tokens = case.sampling.max_tokens
    with stock_attention(case.model):
        written = case.model.base.generate(**case.inputs, max_new_tokens=num_tokens, use_cache=True, **options)
    new: Tensor = written[:, case.inputs["input_ids"].shape[1] :]
    return new


BENCHMARK = Benchmark(build, {"think": ours, "generate": generate, "plain": plain})


if __name__ == "__main__":
    parser = argument_parser(__doc__, vocabulary=24_576, prefix=1280, frames=4, thought=64, lora_rank=0)
    parser.add_argument("--num-thoughts", type=int, default=8, help="thoughts per video")
    parser.add_argument("--videos", type=int, default=1, help="videos in one batch")
    compare(BENCHMARK, parser.parse_args())
