"""Videos per second of scoring with a thought: against the published flow, fixed batches, and no thought.

    python -m benchmarks.speed.scoring
    python -m benchmarks.speed.scoring --videos 64 --same

    score        as `descore score` does: batches by their number of tokens, long videos first
    batches      the same engine in batches of 8, in the order of the table
    one by one   the same engine, video by video
    fast         without a thought
    published    video by video: transformers' `generate` in one model, then a full pass over the video and its thought
                 in a second one, as the published code does

Videos of 1 to 10 seconds, read at 4 frames a second by the tiny backbone with a new head; thoughts are its own, greedy.
The thoughts of all ways must be the same, and so must their rewards but for `fast`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.speed.harness import HelpFormatter, Seconds, medians, result_table, timed
from benchmarks.speed.serving import write_clips
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.scoring.schedule import order_batches
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from descore.types import Thought
from descore.video.settings import VideoSettings
from tests.parity.plain import inputs_of, plain_sequence, stock

PROMPT = "A red circle moves left fast."
TOLERANCE = 1e-4
Found = tuple[list[str], torch.Tensor]
"""Thoughts and rewards, in the order of the videos."""


def make_scorer(options: argparse.Namespace, folder: str) -> Scorer:
    """Export the tiny backbone with a new head, and load it."""
    video = VideoSettings(fps=4, min_frames=4, max_frames=40, min_pixels=2304, max_pixels=2304)
    settings = ModelSettings(
        "tiny", PromptTemplate.read("rendered").text, video=video, max_thought_tokens=options.thought
    )
    RewardModel.create(settings).save_pretrained(f"{folder}/export")
    return Scorer(f"{folder}/export", device=options.device, dtype="float32")


def scored(scorer: Scorer, videos: Sequence[str], batches: Sequence[Sequence[int]], **options: str) -> Found:
    """Score videos in given batches."""
    order = [index for batch in batches for index in batch]
    sizes = list(map(len, batches))
    scores: dict[int, Score] = dict(
        zip(order, scorer.stream([videos[index] for index in order], PROMPT, batches=sizes, **options), strict=True)
    )
    if errors := [score.error for score in scores.values() if score.error]:
        raise SystemExit(f"expected every video to be scored, got: {errors[0]}")
    in_order = [scores[index] for index in range(len(videos))]
    return [score.thought for score in in_order], torch.tensor([score.reward for score in in_order])


def published(scorer: Scorer, generator: RewardModel, judge: RewardModel, videos: Sequence[str]) -> Found:
    """Let one model write a thought about each video, and another one read the video again with its thought."""
    processor, texts, rewards = scorer.model.processor, [], []
    for video in videos:
        prefix = processor.prefix(PROMPT, processor.read(video))
        with torch.no_grad():
            inputs = inputs_of(generator, prefix, [])
            limit, never = processor.settings.max_thought_tokens, processor.forbidden_ids
            written = generator.base.generate(
                **inputs, max_new_tokens=limit, do_sample=False, suppress_tokens=never, eos_token_id=processor.end_id
            )
            tokens = written[0, len(prefix.input_ids) :].tolist()
            closed = processor.end_id in tokens
            thought = Thought(tuple(tokens[: tokens.index(processor.end_id)] if closed else tokens), closed)
            rewards.append(plain_sequence(judge, prefix, thought, logits_to_keep=1)[0][0])
        texts.append(processor.thought_text(thought.token_ids))
    return texts, torch.stack(rewards).cpu()


def make_ways(scorer: Scorer, videos: Sequence[str]) -> dict[str, Callable[[], Found]]:
    """Make the ways by name, ours first."""
    processor = scorer.model.processor
    lengths = [len(processor.prefix(PROMPT, processor.read(video)).input_ids) for video in videos]
    by_tokens = order_batches(lengths, scorer.max_batch_tokens, processor.settings.max_thought_tokens)
    number = range(len(videos))
    generator = stock(scorer.model)
    return {
        "score": partial(scored, scorer, videos, by_tokens),
        "batches": partial(scored, scorer, videos, [number[start : start + 8] for start in number[::8]]),
        "one by one": partial(scored, scorer, videos, [[index] for index in number]),
        "fast": partial(scored, scorer, videos, by_tokens, thought=""),
        "published": partial(published, scorer, generator, deepcopy(generator), videos),
    }


def check(found: dict[str, Found]) -> str:
    """Compare thoughts and rewards with those of `score`; exit with 1 if they differ."""
    texts, rewards = found["score"]
    others = {name: one for name, one in found.items() if name not in {"score", "fast"}}
    apart = max(float((own - rewards).abs().max()) for _, own in others.values())
    if any(own != texts for own, _ in others.values()) or not apart <= TOLERANCE:
        raise SystemExit(f"expected the same thoughts, and rewards within {TOLERANCE}; they are {apart:.1e} apart")
    return f"All write the same thoughts; rewards agree to {apart:.1e}, of a spread of {rewards.std():.1e}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--videos", type=int, default=48, help="number of videos")
    add("--same", action="store_true", help="videos of 4 seconds instead of 1 to 10")
    add("--thought", type=int, default=256, help="most tokens of a thought")
    add("--device", default="cpu", help="cpu or cuda")
    add("--repeats", type=int, default=3, help="timed runs of each way; the table shows the median")
    add("--markdown", action="store_true", help="print the table in Markdown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scorer = make_scorer(options, folder)
        seconds = [4 if options.same else 1 + 7 * index % 10 for index in range(options.videos)]
        ways = make_ways(scorer, write_clips(Path(folder), seconds))
        said = check({name: run() for name, run in ways.items()})
        timers: dict[str, Callable[[], Seconds]] = {name: partial(timed, run) for name, run in ways.items()}
        taken = medians(timers, options.repeats)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in scorer.model.parameters()) / 1e6
    table = result_table(
        "way", "seconds", "videos/s", "ratio", "CPU s", "ratio", "weights MB", markdown=options.markdown
    )
    for name, (wall, cpu) in taken.items():
        ratios = [f"{value / ours:.2f}" for value, ours in zip((wall, cpu), taken["score"], strict=True)]
        size = f"{weights * (1 + (name == 'published')):.1f}"
        table.add_row(name, f"{wall:.2f}", f"{options.videos / wall:.1f}", ratios[0], f"{cpu:.2f}", ratios[1], size)
    console = Console(width=120)
    console.print(table)
    console.print(f"{options.videos} videos, thoughts of {options.thought} tokens at most. {said}")


if __name__ == "__main__":
    main()
