"""Readings of one video from one prefix: many questions, and many prompts, against a prefill for each of them.

    python -m benchmarks.speed.readings
    python -m benchmarks.speed.readings --questions 29 --prompts 8 --threads 1 --markdown

    questions   yes/no questions branch from one prefix, as a checklist is read (VisionReward asks 29, a forward each)
    prompts     three query tokens after each prompt (as VideoAlign has them), whose video and instruction are shared

    shared      one prefix, a branch for each question or prompt
    packed      a prefix for each of them, all in one row
    one by one  a forward for each of them
    plain       the same by transformers' own attention, with the logits of the last token; of the questions only

All ways must give the same answers or rewards. The backbone is a small Qwen3-VL with random weights, in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.speed.backbones import PROMPT, SHAPES, random_model, small_shape
from benchmarks.speed.harness import TOLERANCE, argument_parser, medians, result_table, timed
from descore.heads.settings import HeadSettings
from descore.inputs.checklist import Question, tokenise_question
from descore.inputs.prompts import PromptTemplate
from descore.model.reward_model import RewardModel
from descore.seeding import generator
from descore.thinking.readout import read_answers
from descore.types import Frames, Prefix, Thought
from tests.parity.plain import plain_sequence, stock

Ways = dict[str, Callable[[], Tensor]]


def build(options: argparse.Namespace, **settings: Any) -> RewardModel:
    """Make a random model in eval mode."""
    small = options.shape == "small"
    shape = small_shape(options.width, options.layers, options.vocabulary) if small else SHAPES[options.shape]
    return random_model(shape, options.device, torch.float32, parts=["head"], **settings).eval()


def video_of(options: argparse.Namespace) -> Frames:
    """Make a video of noise."""
    shape = (options.frames, 3, options.side, options.side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator(0, "frames", "a"))
    return Frames(pixels, tuple(range(0, 12 * options.frames, 12)), 24.0, 12 * options.frames)


def ways_of_questions(options: argparse.Namespace) -> Ways:
    """Ways to the probability of yes of each question, `[questions]`."""
    model = build(options)
    processor = model.processor
    numbers = range(options.questions)
    questions = [Question(text=f"Is part {number} free of things that melt or jump?") for number in numbers]
    prefix, plain = processor.prefix(PROMPT, video_of(options)), stock(model)

    def ask(asked: Sequence[Question]) -> Tensor:
        processor.settings = replace(processor.settings, checklist=tuple(asked))
        return read_answers(model, processor.pack([prefix], [[Thought()]]).to(options.device))[0]

    def ask_plainly() -> Tensor:
        asked = [tokenise_question(question, processor.tokenizer) for question in questions]
        # The query token that ends a plain sequence sees the answer's place, and is not seen from there.
        logits = [plain_sequence(plain, prefix, Thought(one.token_ids), logits_to_keep=2)[1][0] for one in asked]
        found = [row[[one.yes, one.no]] for row, one in zip(logits, asked, strict=True)]
        return torch.stack(found).softmax(-1)[:, 0]

    return {
        "shared": lambda: ask(questions),
        "one by one": lambda: torch.cat([ask([question]) for question in questions]),
        "plain": ask_plainly,
    }


def ways_of_prompts(options: argparse.Namespace) -> Ways:
    """Ways to three rewards of one video for each of several prompts, `[prompts, 3]`."""
    template, names = PromptTemplate.read("rendered_queries").text, ("visual", "motion", "alignment")
    model = build(options, template=template, reward_names=names, head=HeadSettings(query="each"))
    frames = video_of(options)
    prefixes = [model.processor.prefix(f"{PROMPT} Take {index}.", frames) for index in range(options.prompts)]

    def score(some: Sequence[Prefix]) -> Tensor:
        return model(model.processor.pack(some, [[Thought()]] * len(some)).to(options.device)).rewards

    return {
        "shared": lambda: score_shared(model, prefixes),
        "packed": lambda: score(prefixes),
        "one by one": lambda: torch.cat([score([prefix]) for prefix in prefixes]),
    }


def score_shared(model: RewardModel, prefixes: Sequence[Prefix]) -> Tensor:
    """Score prefixes of one video with one prefix, up to where they differ, and a branch for the rest of each."""
    rows = [prefix.input_ids.tolist() for prefix in prefixes]
    common = next(index for index, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
    first = prefixes[0]
    unread = (0,) * len(first.query_index)  # the queries stand in the branches
    ids, positions = first.input_ids[:common], first.position_ids[:, :common]
    shared = replace(first, input_ids=ids, position_ids=positions, query_index=unread)
    branches = model.processor.pack([shared], [[Thought(tuple(row[common:])) for row in rows]])
    branches = branches.to(model.head.weight.device)
    places, start = [], 0
    for prefix, row in zip(prefixes, rows, strict=True):
        places.append([start + index for index in prefix.query_index])
        start += len(row) - common
    return model.head(model.hidden(branches)[torch.tensor(places)])


def measure(name: str, ways: Ways, options: argparse.Namespace, console: Console) -> None:
    """Check that all ways agree, and print what each takes; exit with 1 if they do not agree."""
    results = {way: run() for way, run in ways.items()}
    expected = results["shared"]
    apart = max(float((result - expected).abs().max()) for result in results.values())
    if not apart <= TOLERANCE:
        raise SystemExit(f"{name}: expected results within {TOLERANCE} of each other; they are {apart:.1e} apart")
    taken = medians({way: partial(timed, run) for way, run in ways.items()}, options.repeats)
    table = result_table(name, "seconds", "ratio", "CPU s", "ratio", words=(name,), markdown=options.markdown)
    for way, seconds in taken.items():
        pairs = zip(seconds, taken["shared"], strict=True)
        table.add_row(way, *(cell for value, base in pairs for cell in (f"{value:.2f}", f"{value / base:.2f}")))
    console.print(table)
    console.print(f"Results agree to {apart:.1e}, of a spread of {float(expected.max() - expected.min()):.1e}.")


@torch.no_grad()
def main() -> None:
    parser = argument_parser(__doc__, width=256, vocabulary=4096, frames=10, side=224)
    parser.add_argument("--questions", type=int, default=29, help="number of questions")
    parser.add_argument("--prompts", type=int, default=8, help="number of prompts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    measure(f"{options.questions} questions", ways_of_questions(options), options, console)
    measure(f"{options.prompts} prompts", ways_of_prompts(options), options, console)


if __name__ == "__main__":
    main()
