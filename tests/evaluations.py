"""Folders of evaluations, written by hand: what the report reads, without a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from descore.answer import Answer, write_thought
from descore.metrics import interval, preference_accuracy
from descore.types import DIMENSIONS

PROTOCOL = {
    "kind": "pointwise",
    "reward_from": "head",
    "thoughts": 1,
    "temperature": 0.0,
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
                scores.append({"index": videos[key]} | score_of(side))
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
        "table": "pairs.jsonl",
        "root": str(root or folder),
        "preset": "descore",
        "dimensions": ["overall"],
        "model": f"runs/{folder.name}/export",
        "model_digest": "0" * 64,
        "protocol": PROTOCOL | {"thoughts": thoughts},
        "limit": None,
        "num_videos": len(videos),
        "num_pairs": len(pairs),
        "missing": [],
    }
    for name, values in (("pairs", rows), ("videos", lines), ("scores", scores)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    (folder / "evaluation.json").write_text(json.dumps(info))
    (folder / "summary.json").write_text(json.dumps(summary_of(info, pairs, thoughts)))
    return folder


def written(scores: Sequence[int | None] | None) -> dict[str, int | str] | None:
    if scores is None:
        return None
    return {name: "N/A" if value is None else value for name, value in zip(DIMENSIONS, scores, strict=True)}


def score_of(side: Shown) -> dict[str, Any]:
    failed = side.reward is None
    each = [{"reward": reward, "thought": f"thought {i}"} for i, reward in enumerate(side.each)]
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


def summary_of(info: Mapping[str, Any], pairs: Sequence[Judged], thoughts: int) -> dict[str, Any]:
    def reward(side: Shown) -> float:
        return math.nan if side.reward is None else side.reward

    def bin_of(margins: Sequence[float], labels: Sequence[float], low: float, high: float) -> dict[str, Any]:
        sure = [1 / (1 + math.exp(-abs(m))) for m in margins]
        inside = [
            (s, m * y > 0) for s, m, y in zip(sure, margins, labels, strict=True) if low <= s < high and y in (1, -1)
        ]
        mean = [sum(values) / len(inside) for values in zip(*inside, strict=True)] if inside else [None, None]
        return {"low": low, "high": high, "confidence": mean[0], "accuracy": mean[1], "num": len(inside)}

    margins = [reward(pair.a) - reward(pair.b) for pair in pairs]
    labels = [math.nan if LABELS[pair.label] is None else LABELS[pair.label] for pair in pairs]
    found = preference_accuracy(margins, labels)
    groups = sorted({side.generator for pair in pairs for side in (pair.a, pair.b)} - {""})
    by_generator = {}
    for group in groups:
        chosen = [i for i, pair in enumerate(pairs) if group in {pair.a.generator, pair.b.generator}]
        one = preference_accuracy([margins[i] for i in chosen], [labels[i] for i in chosen])
        by_generator[group] = {"without_ties": one.without_ties, "num_decided": one.num_decided}
    steps = [k for k in (1, 2, 4, 8) if k <= thoughts]
    result = {
        "without_ties": found.without_ties,
        "without_ties_interval": interval(found.without_ties, found.num_decided),
        "with_ties": found.with_ties,
        "with_ties_interval": interval(found.with_ties, found.num_pairs),
        "tie_threshold": found.tie_threshold,
        "fixed_threshold": None,
        "num_pairs": found.num_pairs,
        "num_decided": found.num_decided,
        "num_failed": found.num_failed,
        "num_unusable": found.num_unusable,
        "calibration": {
            "expected_error": 0.05,
            "bins": [bin_of(margins, labels, 0.5 + i / 20, 0.55 + i / 20) for i in range(10)],
        },
        "correlation": None,
        "by_generator": by_generator,
        "by_num_thoughts": {str(k): found.without_ties - 0.03 / k for k in steps} if thoughts > 1 else None,
    }
    return {"benchmark": info["benchmark"], "protocol": info["protocol"], "dimensions": {"overall": result}}
