"""What the tiny backbone sees in rendered videos: its greedy thoughts against exact ones, attribute by attribute.

python -m benchmarks.evidence.tiny_backbone                                  measures the one in the package
python -m benchmarks.evidence.tiny_backbone --ship runs/tiny_backbone/last   measures an exported one and packages it
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.scene import VALUES
from data_modules.world.teacher import Teacher
from descore.answer import AnswerError, parse_answer
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.tables.pairs import read_pairs
from descore.thinking.think import think
from descore.types import DIMENSIONS, Pair, Thought
from descore.video.settings import VideoSettings

CONFIG, SHIPPED = Path("conf/tiny_backbone.yaml"), Path("src/descore/tiny")
BATCH = 64


def shipped() -> RewardModel:
    """Load the backbone of the package with the settings of conf/stage1.yaml."""
    template = PromptTemplate.read("rendered").text
    video = VideoSettings(fps=4, min_frames=8, max_frames=8, min_pixels=2304, max_pixels=2304)
    return RewardModel.create(ModelSettings("tiny", template, video, max_thought_tokens=256)).eval()


def measure(model: RewardModel, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """Share of greedy thoughts that equal the exact ones, by attribute of the video and by dimension score."""
    sides = [(pair.prompt, side) for pair in pairs for side in (pair.a, pair.b)]
    attributes: list[list[bool]] = []
    scores: list[list[bool]] = []
    for start in range(0, len(sides), BATCH):
        batch = sides[start : start + BATCH]
        prefixes = [model.processor.prefix(prompt, model.processor.read(side.video)) for prompt, side in batch]
        groups = think(model, model.processor.pack(prefixes, [[Thought()]] * len(prefixes)))
        for (_, side), group in zip(batch, groups, strict=True):
            truth, seen = shown_words(side.thought), shown_words(group.texts[0])
            attributes.append([word == other for word, other in zip(truth, seen or [""] * len(truth), strict=True)])
            scores.append(right_scores(group.texts[0], side.scores))
    return {
        "attributes": dict(zip(VALUES, np.mean(attributes, axis=0).round(3).tolist(), strict=True)),
        "scores": dict(zip(DIMENSIONS, np.mean(scores, axis=0).round(3).tolist(), strict=True)),
        "scores_right": round(float(np.mean(scores)), 3),
        "num_videos": len(sides),
    }


def shown_words(thought: str) -> list[str]:
    """Read the attributes that a thought says are shown; none if their number is not that of the world."""
    line = re.search(r"Shown: (.*)\.", thought)
    words = re.split(r"[,;] ", line.group(1)) if line else []
    return words if len(words) == len(VALUES) else []


def right_scores(thought: str, truth: Any) -> list[bool]:
    """Whether each dimension score equals the annotated one; none does if the answer is not legal."""
    try:
        scores = parse_answer(thought).scores
    except AnswerError:
        return [False] * len(DIMENSIONS)
    return [scores[name] == truth[name] for name in DIMENSIONS]


def ship(model: RewardModel, learnt: dict[str, Any]) -> None:
    """Write the backbone into the package in float16, with its recipe and measurements."""
    shutil.rmtree(SHIPPED, ignore_errors=True)
    shutil.copytree("runs/tiny_backbone/start", SHIPPED)
    model.base.to(torch.float16).save_pretrained(SHIPPED)
    recipe = {"command": "make tiny-backbone", "configuration": CONFIG.read_text(), "measured": learnt}
    (SHIPPED / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ship", metavar="FOLDER", help="exported folder to measure and to write into the package")
    parser.add_argument("--pairs", type=int, default=256, help="pairs per split (default 256)")
    options = parser.parse_args()
    model = RewardModel.from_pretrained(options.ship) if options.ship else shipped()
    exact = RenderSettings(teacher=Teacher(habits={}))
    learnt = {}
    for split in ("val", "ood"):
        table = render_split(Path("runs/rendered_exact"), split, options.pairs, exact, seed=0)
        learnt[split] = measure(model, read_pairs(table).pairs)
    if options.ship:
        ship(model, learnt)
    Console().print_json(data=learnt)


if __name__ == "__main__":
    main()
