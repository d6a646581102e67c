"""Thoughts of a video and their rewards: `think` against transformers' `generate` and a full pass per reward.

    python -m benchmarks.speed.thinking --help

Four ways, two and two to the same end:

    think       all thoughts from one prefill of each video, and their rewards
    generate    transformers' own sampling, attention and cache, without rewards; prefills a copy per thought
    from cache  what a reward costs in `think`: one forward of `<Reward>` for all thoughts, divided by their number
    re-run      transformers' own forward of `[prefix | thought <Reward>]` with its vision tower: the published code,
                spared the logits of every position but the last

The backbone is a small Qwen3-VL with random weights, float32. A hook on its `lm_head` takes all probability from the
end of turn and from the tokens that no thought may hold. Both sides run this one hook and `generate` has nothing else
to suppress, so they draw from the same distribution and write thoughts of full length. Greedy thoughts must be equal
token by token, and the rewards of sampled ones must agree, before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.speed.harness import (
    Seconds,
    argument_parser,
    create_model,
    medians,
    now,
    padded_prefix,
    result_table,
    timed,
    write_backbone,
)
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.thinking.think import think
from descore.types import Branches, Group, Prefix, Thought
from tests.parity.plain import inputs_of, plain_sequence, stock_attention

TOLERANCE = 1e-5
"""How far the rewards of two ways may be apart."""

BASES = {"think": "think", "generate": "think", "from cache": "from cache", "re-run": "from cache"}
"""The ways, and what the ratio of each is to."""

Work = NDArray[np.int64]
"""[2]: calls of the vision tower, and tokens that the language model reads in forwards of more than one position."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and videos to think about, as `think` and as `generate` take them."""

    model: RewardModel
    prefixes: tuple[Prefix, ...]
    videos: Branches
    inputs: dict[str, Tensor]
    sampling: Sampling

    @property
    def num_sequences(self) -> int:
        """Thoughts of all videos."""
        return len(self.prefixes) * self.sampling.num_thoughts


def ours(case: Case) -> list[Group]:
    return think(case.model, case.videos, case.sampling)


def generate(case: Case) -> Tensor:
    """Sample as `ours` does: `[V * n, R]`."""
    num_thoughts, temperature = case.sampling.num_thoughts, case.sampling.temperature
    # Unless it is told otherwise, transformers draws from the 50 most probable tokens only.
    distribution = {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    return _generate(case, do_sample=True, num_return_sequences=num_thoughts, **distribution)


def rerun(case: Case, prefix: Prefix, thought: Thought) -> Tensor:
    """Score one thought: `[1]`."""
    with stock_attention(case.model), torch.no_grad():
        return plain_sequence(case.model, prefix, thought, logits_to_keep=1)[0]


def from_cache(case: Case) -> Seconds:
    """Run `think`, and say what one thought's share of its last forward took, from `<Reward>` fed to its reward."""
    marks: list[Seconds] = []

    def mark(*_: object) -> None:
        marks.append(now())

    with case.model.base.model.register_forward_pre_hook(mark), case.model.head.register_forward_hook(mark):
        ours(case)
    # All thoughts end at the same length: one last forward for all of them, then the head once per video.
    fed, scored = marks[-len(case.prefixes) - 1 :][:2]
    return (scored - fed) / case.num_sequences


def build(options: argparse.Namespace) -> Case:
    with tempfile.TemporaryDirectory() as folder:
        write_backbone(folder, options)
        model = create_model(folder, options.threads).to(options.device).eval()
    model.base.model.language_model.norm.weight.data.neg_()  # or it would only repeat what it read last
    write_in_full(model)
    prefixes = tuple(padded_prefix(model.processor, options, str(index)) for index in range(options.videos))
    sampling = Sampling(num_thoughts=options.num_thoughts, max_tokens=options.thought, temperature=1.0)
    return case_of(model, prefixes, sampling)


def case_of(model: RewardModel, prefixes: tuple[Prefix, ...], sampling: Sampling) -> Case:
    videos = model.processor.pack(prefixes, [[Thought()]] * len(prefixes)).to(model.head.weight.device)
    single = [inputs_of(model, prefix, []) for prefix in prefixes]
    inputs = {name: torch.cat([one[name] for one in single]) for name in single[0]}
    return Case(model, prefixes, videos, inputs, sampling)


def write_in_full(model: RewardModel) -> RemovableHandle:
    """Take all probability from the end of turn and from what no thought may hold, whoever calls `lm_head`."""
    bias = torch.zeros(model.base.config.get_text_config().vocab_size)
    bias[[*model.processor.forbidden_ids, model.processor.end_id]] = -torch.inf
    bias = bias.to(model.head.weight.device)
    output = model.base.get_output_embeddings()
    return output.register_forward_hook(lambda _module, _inputs, logits: logits + bias)  # type: ignore[no-any-return]


def check_greedy(case: Case) -> None:
    """Stop unless both sides write the same when nothing is drawn."""
    groups = think(case.model, case.videos, replace(case.sampling, num_thoughts=1, temperature=0.0))
    found = [list(group.thoughts[0].token_ids) for group in groups]
    expected = _generate(case, do_sample=False).tolist()
    if found != expected:
        raise SystemExit(
            f"expected think to write the greedy tokens of generate, {expected}, got {found}; no time is valid"
        )


def check_lengths(case: Case, groups: list[Group]) -> None:
    """Stop unless both sides write as many tokens, every thought in full."""
    expected = [case.sampling.max_tokens] * case.num_sequences
    found = [len(thought.token_ids) for group in groups for thought in group.thoughts]
    written = [len(row) for row in generate(case)]
    if not found == written == expected:
        raise SystemExit(f"expected thoughts of {expected} tokens, got {found} and from generate {written}")


def check_rewards(case: Case, groups: list[Group]) -> None:
    """Stop unless a re-run gives the rewards that thinking gave, and the thoughts have different ones."""
    found = torch.cat([group.rewards for group in groups])
    pairs = zip(case.prefixes, groups, strict=True)
    expected = torch.stack([rerun(case, prefix, thought) for prefix, group in pairs for thought in group.thoughts])
    apart, spread = float((found - expected).abs().max()), float(expected.max() - expected.min())
    if not apart <= TOLERANCE <= spread / 10:
        raise SystemExit(
            f"expected re-runs to give the rewards of thinking within {TOLERANCE}, and thoughts to differ by ten times "
            f"that, got {apart:.1e} and {spread:.1e}; no time is valid, or take more --num-thoughts"
        )


def seconds(case: Case, repeats: int, thought: Thought) -> dict[str, Seconds]:
    """Median time of each way, by the clock and of the CPU."""
    ways = {
        "think": partial(timed, partial(ours, case)),
        "generate": partial(timed, partial(generate, case)),
        "from cache": partial(from_cache, case),
        "re-run": partial(timed, partial(rerun, case, case.prefixes[0], thought)),
    }
    return medians(ways, repeats)


def works(case: Case, thought: Thought) -> dict[str, Work]:
    """Calls of the vision tower and tokens of a prefill that each way takes."""
    thinking = forwards(case, partial(ours, case))
    return {
        "think": np.sum(thinking, axis=0),
        "generate": np.sum(forwards(case, partial(generate, case)), axis=0),
        "from cache": thinking[-1],
        "re-run": np.sum(forwards(case, partial(rerun, case, case.prefixes[0], thought)), axis=0),
    }


def forwards(case: Case, run: Callable[[], object]) -> list[Work]:
    """Watch the forwards of the vision tower and of the language model in a run."""
    seen: list[Work] = []

    def see(*_: object) -> None:
        seen.append(np.array([1, 0]))

    def read(_module: nn.Module, _args: object, kwargs: dict[str, Tensor]) -> None:
        rows, length, _ = kwargs["inputs_embeds"].shape
        seen.append(np.array([0, rows * length if length > 1 else 0]))

    vision, language = case.model.base.model.visual, case.model.base.model.language_model
    with vision.register_forward_pre_hook(see), language.register_forward_pre_hook(read, with_kwargs=True):
        run()
    return seen


def main() -> None:
    options = _options()
    _say("building the model and its videos")
    case = build(options)
    _say("comparing greedy thoughts")
    check_greedy(case)
    _say("comparing sampled thoughts, their lengths and rewards")
    groups = ours(case)
    check_lengths(case, groups)
    check_rewards(case, groups)
    _say("counting forwards")
    done = works(case, groups[0].thoughts[0])
    _say(f"timing, {options.repeats} runs of each way")
    taken = seconds(case, options.repeats, groups[0].thoughts[0])
    console = Console(width=120)
    console.print(_table(options, case, taken, done))
    console.print(_explanation(case, taken, done))


def _table(options: argparse.Namespace, case: Case, taken: dict[str, Seconds], done: dict[str, Work]) -> Table:
    columns = ("of", "way", "seconds", "ratio", "CPU s", "ratio", "vision calls", "prefill tokens")
    table = result_table(*columns, words=["of", "way"], markdown=options.markdown)
    for way, base in BASES.items():
        scope = f"{case.num_sequences} thoughts" if base == "think" else "1 reward"
        pairs = zip(taken[way], taken[way] / taken[base], strict=True)
        times = [cell for value, ratio in pairs for cell in (f"{value:#.3g}", f"{ratio:.2f}")]
        table.add_row(scope, way, *times, *(f"{number:,}" for number in done[way]))
    return table


def _explanation(case: Case, taken: dict[str, Seconds], done: dict[str, Work]) -> str:
    """Say what was measured, and one sentence for each measurement."""
    size = sum(parameter.numel() for parameter in case.model.parameters()) / 1e6
    num_video = int(case.prefixes[0].grid.prod()) // 4
    thoughts, rewards = taken["generate"] / taken["think"], taken["re-run"] / taken["from cache"]
    plain, thinking = done["generate"] + case.num_sequences * done["re-run"], done["think"]
    return (
        f"{size:.1f} M parameters. Prefix {len(case.prefixes[0].input_ids):,} tokens, {num_video:,} of them video; "
        f"thoughts of {case.sampling.max_tokens:,}.\n"
        f"think is {thoughts[0]:.2f} times as fast as generate, {thoughts[1]:.2f} times by CPU; "
        f"it gives the rewards besides.\n"
        f"A reward from the cache is {rewards[0]:.0f} times as fast as a full re-run, {rewards[1]:.0f} times by CPU.\n"
        f"For {case.num_sequences} thoughts and their rewards, think against generate and re-runs: vision calls "
        f"{thinking[0]} against {plain[0]},\nprefill tokens {thinking[1]:,} against {plain[1]:,}, "
        f"{plain[1] / thinking[1]:.1f} times as many."
    )


def _generate(case: Case, **options: Any) -> Tensor:
    """Run transformers' own generation on all videos and return the new tokens."""
    with stock_attention(case.model):
        written = case.model.base.generate(
            **case.inputs, max_new_tokens=case.sampling.max_tokens, use_cache=True, **options
        )
    new: Tensor = written[:, case.inputs["input_ids"].shape[1] :]
    return new


def _say(phase: str) -> None:
    Console(stderr=True).print(f"{phase} ...")


def _options() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.set_defaults(frames=4, width=384, vocabulary=24_576)
    add = parser.add_argument
    add("--prefix", type=int, default=1280, help="tokens of a prefix; the published limit is 6,200 (--frames 48)")
    add("--thought", type=int, default=64, help="tokens of a thought")
    add("--num-thoughts", type=int, default=8, help="thoughts of a video, at least 2")
    add("--videos", type=int, default=1, help="videos in one batch of think, and of generate")
    return parser.parse_args()


if __name__ == "__main__":
    main()
