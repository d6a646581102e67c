"""Reads the output folder of an evaluation: the folder of a run of scoring, with these files.

evaluation.json     the request: model, protocol and benchmark
pairs.jsonl         the pairs; each names its videos by their index in videos.jsonl
summary.json        all numbers, written once every video is scored
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from descore.scoring.folder import Record, read_lines, read_scores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Content of an evaluation's folder.

    Attributes:
        folder: Path of the folder.
        info: Content of evaluation.json.
        pairs: Records of pairs.jsonl; empty for a benchmark of single videos.
        videos: Records of videos.jsonl.
        scores: Score record of each video; None if it is not scored yet.
        summary: Content of summary.json; empty until every video is scored.
    """

    folder: Path
    info: Record
    pairs: list[Record]
    videos: list[Record]
    scores: list[Record | None]
    summary: Record

    @property
    def is_complete(self) -> bool:
        """Whether every video has a score record, be it of a reward or of a failure."""
        return None not in self.scores

    def path_of(self, index: int) -> str:
        """Return the path of a video."""
        return str(Path(self.info["root"]) / self.videos[index]["video"])

    def rewards(self, dimension: str) -> Tensor:
        """Return the reward of each video, `[num_videos]` float64; nan where a video failed or is not scored yet.

        For a model with several rewards it is the reward named like the dimension (upper or lower case), or else their
        sum.
        """
        return torch.tensor([reward_of(score, dimension) for score in self.scores], dtype=torch.float64)

    def margins(self, dimension: str) -> Tensor:
        """Return the reward of A minus that of B for each pair, `[num_pairs]` float64; nan where a video failed."""
        rewards = self.rewards(dimension)
        return rewards[self._indices("a")] - rewards[self._indices("b")]

    def preferences(self, dimension: str) -> Tensor:
        """Return the label of each pair, `[num_pairs]` float64: +1 A, -1 B, 0 tie, nan without a usable label."""
        labels = [number(pair["preference"][dimension]) for pair in self.pairs]
        return torch.tensor(labels, dtype=torch.float64)

    def opinions(self, dimension: str) -> Tensor:
        """Return the mean opinion score of each video, `[num_videos]` float64; nan where there is none."""
        return torch.tensor([number(video["mos"][dimension]) for video in self.videos], dtype=torch.float64)

    def _indices(self, side: str) -> Tensor:
        return torch.tensor([pair[side] for pair in self.pairs], dtype=torch.int64)


def load_evaluation(folder: str | Path) -> Evaluation:
    """Load an evaluation, finished or not, from its folder.

    Raises:
        FileNotFoundError: If the folder is not one that `descore evaluate` wrote.
    """
    folder = Path(folder)
    if not (folder / "evaluation.json").is_file():
        raise FileNotFoundError(f"{folder} is not an output folder of `descore evaluate`: it has no evaluation.json")
    summary = folder / "summary.json"
    return Evaluation(
        folder=folder,
        info=json.loads((folder / "evaluation.json").read_text()),
        pairs=read_lines(folder / "pairs.jsonl"),
        videos=read_lines(folder / "videos.jsonl"),
        scores=read_scores(folder),
        summary=json.loads(summary.read_text()) if summary.is_file() else {},
    )


def reward_of(score: Record | None, dimension: str) -> float:
    """Return the reward of a score record for a dimension; nan if there is none.

    >>> score = {"reward": 3.0, "rewards": {"VQ": 1.0, "TA": 2.0}}
    >>> reward_of(score, "ta"), reward_of(score, "overall"), reward_of(None, "ta")
    (2.0, 3.0, nan)
    """
    if score is None:
        return math.nan
    by_name = {name.lower(): reward for name, reward in score["rewards"].items()}
    return number(by_name.get(dimension.lower(), score["reward"]))


def number(value: float | None) -> float:
    """Return a number of a JSON record as a float; nan for null."""
    return math.nan if value is None else float(value)
