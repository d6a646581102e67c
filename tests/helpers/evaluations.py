"""Folders of evaluations, written by hand: what the report reads, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from descore.answer import Answer, write_thought
from descore.evaluation.folder import load_evaluation
from descore.evaluation.summary import summarise
from descore.scoring.folder import plain
from descore.types import DIMENSIONS

PROTOCOL = {
    "kind": "pointwise",
    "reward_from": "head",
    "thoughts": 1,
    "fps": 2.0,
    "min_frames": 4,
    "max_frames": 64,
    "min_pixels": 4096,
    "max_pixels": 200_704,
    "batch_size": 8,
}
LABELS = {"A": 1, "B": -1, "tie": 0, "invalid": None}


@dataclass(frozen=True)
class Shown:
    """One video of a pair: the file, what people and the model say of it; an error in place of a reward."""

    video: str
    reward: float | None
    error: str | None = None
    generator: str = ""
    think: str = "It looks as it should."
    scores: tuple[int | None, ...] = (2, 2, 2, 2, 2)
    annotated: tuple[int | None, ...] | None = None
    each: tuple[float, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A pair: the prompt, both videos, and which one people prefer (A, B, tie or invalid)."""

    prompt: str
    a: Shown
    b: Shown
    label: str = "A"
    sides: tuple[str, str] = field(default=("a", "b"), init=False)


def write_evaluation(
    folder: Path, pairs: Sequence[Judged], *, benchmark: str = "bars", root: Path | None = None, thoughts: int = 1
) -> Path:
    """Write a folder that an evaluation of these pairs would have written."""
    folder.mkdir(parents=True)
    videos: dict[tuple[str, str], int] = {}
    rows, scores = [], []
    for number, pair in enumerate(pairs):
        places = {}
        for side in (pair.a, pair.b):
            key = (side.video, pair.prompt)
            if key not in videos:
                videos[key] = len(videos)
                scores.append({"index": videos[key]} | score_of(side, thoughts))
            places[len(places)] = videos[key]
        rows.append({
            "id": str(number),
            "prompt": pair.prompt,
            "a": places[0],
            "b": places[1],
            "preference": {"overall": LABELS[pair.label]},
            "scores_a": written(pair.a.annotated),
            "scores_b": written(pair.b.annotated),
        })
    generators = {(side.video, pair.prompt): side.generator for pair in pairs for side in (pair.a, pair.b)}
    lines = [
        {
            "index": index,
            "video": video,
            "prompt": prompt,
            "generator": generators[video, prompt],
            "mos": {"overall": None},
        }
        for (video, prompt), index in videos.items()
    ]
    info = {
        "format": 1,
        "benchmark": benchmark,
        "description": "Bars that move.",
        "rejected": {},
        "table": "pairs.jsonl",
        "root": str(root or folder),
        "preset": "descore",
        "dimensions": ["overall"],
        "model": f"runs/{folder.name}/export",
        "model_digest": "0" * 64,
        "protocol": PROTOCOL | {"thoughts": thoughts, "temperature": float(thoughts > 1)},
        "limit": None,
        "num_videos": len(videos),
        "num_pairs": len(pairs),
        "missing": [],
    }
    for name, values in (("pairs", rows), ("videos", lines), ("scores", scores)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    (folder / "evaluation.json").write_text(json.dumps(info))
    summary = plain(summarise(load_evaluation(folder)))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def written(scores: Sequence[int | None] | None) -> dict[str, int | str] | None:
    if scores is None:
        return None
    return {name: "N/A" if value is None else value for name, value in zip(DIMENSIONS, scores, strict=True)}


def score_of(side: Shown, thoughts: int) -> dict[str, Any]:
    failed = side.reward is None
    one = {"rewards": {}, "thought": "", "num_thought_tokens": 9, "truncated": False}
    rewards = side.each or (side.reward,) * thoughts
    each = [] if failed or thoughts < 2 else [one | {"reward": reward} for reward in rewards]
    return {
        "reward": side.reward,
        "rewards": {},
        "thought": "" if failed else write_thought(side.think, Answer(dict(zip(DIMENSIONS, side.scores, strict=True)))),
        "dimension_scores": None if failed else written(side.scores),
        "overall_score": None,
        "num_thought_tokens": 0 if failed else 40,
        "truncated": False,
        "reward_std": 0.5 if each else None,
        "each": each,
        "error": side.error,
    }
