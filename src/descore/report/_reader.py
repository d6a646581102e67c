"""Reads an evaluation's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """An evaluation."""

    folder: Path
    info: dict[str, Any]
    pairs: list[dict[str, Any]]
    videos: list[dict[str, Any]]
    scores: list[dict[str, Any] | None]
    summary: dict[str, Any]

    def margins(self, dimension: str) -> Tensor:
        """Return margins."""
        return torch.tensor([self._reward(p["a"]) - self._reward(p["b"]) for p in self.pairs])

    def preferences(self, dimension: str) -> Tensor:
        """Return preferences."""
        labels = [pair["preference"][dimension] for pair in self.pairs]
        return torch.tensor([float("nan") if label is None else float(label) for label in labels])

    def _reward(self, index: int) -> float:
        score = self.scores[index]
        return float("nan") if score is None or score["reward"] is None else float(score["reward"])


def load_evaluation(folder: str | Path) -> Evaluation:
    """Load."""
    folder = Path(folder)

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / name).read_text().splitlines()]

    videos = lines("videos.jsonl")
    scores: list[dict[str, Any] | None] = [None] * len(videos)
    for score in lines("scores.jsonl"):
        scores[score["index"]] = score
    info, summary = (json.loads((folder / name).read_text()) for name in ("evaluation.json", "summary.json"))
    return Evaluation(folder, info, lines("pairs.jsonl"), videos, scores, summary)
