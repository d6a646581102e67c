"""What a backbone sees in rendered videos and says about them, split by split: `python -m pretraining.measure`.

Its greedy thoughts are compared with the exact ones, attribute by attribute and score by score; so are the dimension
scores that it gives at once, without a thought.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.scene import VALUES, Split
from data_modules.world.teacher import Teacher
from descore.answer import NOT_ASKED, AnswerError, parse_answer
from descore.model.reward_model import RewardModel
from descore.tables.pairs import read_pairs
from descore.thinking.think import think
from descore.types import DIMENSIONS, DimensionScores, Prefix, Side, Thought
from pretraining.recipe import settings_of

SPLITS: tuple[Split, ...] = ("val", "ood", "far")
BATCH = 64


def load(backbone: str) -> RewardModel:
    """Load a backbone, with the settings of conf/stage1.yaml."""
    return RewardModel.create(settings_of(backbone)).eval()


def measure(model: RewardModel, root: Path, num_pairs: int) -> dict[str, Any]:
    """Measure a model on every split.

    Args:
        model: Model that thinks.
        root: Folder of the rendered splits.
        num_pairs: Number of pairs of each split.

    Returns:
        For each split: shares of right attributes and of right dimension scores, those of the thoughts and those given
        at once, and the share of the most frequent score, which a model gets right that sees nothing.
    """
    exact = RenderSettings(teacher=Teacher(habits={}))
    return {
        split: measure_split(model, read_pairs(render_split(root, split, num_pairs, exact, seed=0)).pairs)
        for split in SPLITS
    }


def measure_split(model: RewardModel, pairs: Sequence[Any]) -> dict[str, Any]:
    """Measure a model on the videos of one split."""
    sides: list[tuple[str, Side]] = [(pair.prompt, side) for pair in pairs for side in (pair.a, pair.b)]
    attributes: list[list[bool]] = []
    scores: list[list[bool]] = []
    at_once: list[list[bool]] = []
    for start in range(0, len(sides), BATCH):
        batch = sides[start : start + BATCH]
        prefixes = [model.processor.prefix(prompt, model.processor.read(side.video)) for prompt, side in batch]
        groups = think(model, model.processor.pack(prefixes, [()] * len(prefixes)))
        answers = scores_at_once(model, prefixes)
        for (_, side), group, answer in zip(batch, groups, answers, strict=True):
            truth, seen = shown_words(side.thought), shown_words(group.texts[0])
            attributes.append([word == other for word, other in zip(truth, seen or [""] * len(truth), strict=True)])
            scores.append(right_scores(said_scores(group.texts[0]), side.scores))
            at_once.append(right_scores(answer, side.scores))
    counts = [Counter((side.scores or {})[name] for _, side in sides) for name in DIMENSIONS]
    return {
        "attributes": _shares(VALUES, attributes),
        "attributes_right": round(float(np.mean(attributes)), 3),
        "scores": _shares(DIMENSIONS, scores),
        "scores_right": round(float(np.mean(scores)), 3),
        "scores_at_once": _shares(DIMENSIONS, at_once),
        "scores_at_once_right": round(float(np.mean(at_once)), 3),
        "most_frequent_scores": round(float(np.mean([max(count.values()) / len(sides) for count in counts])), 3),
        "num_videos": len(sides),
    }


@torch.no_grad()
def scores_at_once(model: RewardModel, prefixes: Sequence[Prefix]) -> list[DimensionScores]:
    """Return the dimension scores that the model gives each video without a thought, each the most probable of four."""
    processor = model.processor
    space, quote, *digits = _tokens(processor.tokenizer)
    texts = ["<answer>{"] * len(prefixes)
    found: list[DimensionScores] = [{} for _ in prefixes]
    for name in DIMENSIONS:
        opening = '"dimension_scores": {' if name == DIMENSIONS[0] else ", "
        texts = [f'{text}{opening}"{name}":' for text in texts]
        thoughts = [Thought((*processor.thought(text).token_ids, space)) for text in texts]
        branches = processor.pack(prefixes, [[thought] for thought in thoughts])
        hidden, ends = model.hidden(branches), branches.query_index[:, 0] - 1
        before, after = (model.next_logits(hidden[rows]).log_softmax(-1) for rows in (ends - 1, ends))
        chances = torch.cat([after[:, digits] + before[:, [space]], before[:, [quote]]], 1)
        for index, best in enumerate(chances.argmax(1).tolist()):
            found[index][name] = None if best == len(digits) else best
            texts[index] += f' "{NOT_ASKED}"' if best == len(digits) else f" {best}"
    return found


def _tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that may follow the name of a dimension: a space, a quote behind a space, and 0, 1 and 2."""
    (space, zero), (quote, *_) = (
        tokenizer.encode(text, add_special_tokens=False) for text in (" 0", f' "{NOT_ASKED}"')
    )
    return [space, quote, zero, *tokenizer.convert_tokens_to_ids(["1", "2"])]


def shown_words(thought: str) -> list[str]:
    """Read the attributes that a thought says are shown; none if their number is not that of the world."""
    line = re.search(r"Shown: (.*)\.", thought)
    words = re.split(r"[,;] ", line.group(1)) if line else []
    return words if len(words) == len(VALUES) else []


def said_scores(thought: str) -> DimensionScores | None:
    """Return the dimension scores of a thought; None if its answer is malformed."""
    try:
        return parse_answer(thought).scores
    except AnswerError:
        return None


def right_scores(said: DimensionScores | None, truth: Any) -> list[bool]:
    """Return whether each dimension score equals the annotated one; none does if there is no legal answer."""
    return [said is not None and said[name] == truth[name] for name in DIMENSIONS]


def _shares(names: Any, right: Sequence[Sequence[bool]]) -> dict[str, float]:
    return dict(zip(names, np.mean(right, axis=0).round(3).tolist(), strict=True))


def main() -> None:
    """Measure a backbone, and print what it sees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", default="tiny", help="folder (default: that of the package)")
    parser.add_argument("--pairs", type=int, default=256, help="pairs per split (default 256)")
    parser.add_argument("--root", type=Path, default=Path("runs/rendered_exact"), help="folder of the rendered splits")
    options = parser.parse_args()
    Console().print_json(data=measure(load(options.backbone), options.root, options.pairs))


if __name__ == "__main__":
    main()
