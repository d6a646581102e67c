"""Reads the output folder of an evaluation: the folder of a run of scoring, with these files.

evaluation.json     the request: model, protocol and benchmark
pairs.jsonl         the pairs; each names its videos by their index in videos.jsonl. Of a model that compares two
                    videos, scores.jsonl has the comparison of each pair in place of the score of each video
videos.jsonl        each (video, prompt) of the table, and after them those with swapped prompts, if asked for
summary.json        all numbers, written once every video is scored
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from descore.pairwise.comparison import Comparison
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
        swapped_videos: Records of videos.jsonl with swapped prompts; a video names its own by its entry "swapped".
        swapped_scores: Score record of each of them; None if it is not scored yet.
        comparisons: Comparison record of each pair, None if it is not compared yet; empty for a model that scores
            videos. Such an evaluation has no score of a video.
    """

    folder: Path
    info: Record
    pairs: list[Record]
    videos: list[Record]
    scores: list[Record | None]
    summary: Record
    swapped_videos: list[Record] = field(default_factory=list)
    swapped_scores: list[Record | None] = field(default_factory=list)
    comparisons: list[Record | None] = field(default_factory=list)

    @property
    def is_pairwise(self) -> bool:
        """Whether the model compares two videos, instead of scoring each."""
        return bool(self.info["protocol"]["kind"] == "pairwise")

    @property
    def _to_score(self) -> list[Record | None]:
        return self.comparisons if self.is_pairwise else [*self.scores, *self.swapped_scores]

    @property
    def is_complete(self) -> bool:
        """Whether every video has a score record, be it of a reward or of a failure."""
        return self.num_scored == self.num_to_score

    @property
    def num_to_score(self) -> int:
        """Number of videos to score, those with swapped prompts included, or of pairs to compare."""
        return len(self._to_score)

    @property
    def num_scored(self) -> int:
        """Number of videos that have a score record, or of pairs that have a comparison record."""
        return sum(score is not None for score in self._to_score)

    def path_of(self, index: int) -> str:
        """Return the path of a video."""
        return str(Path(self.info["root"]) / self.videos[index]["video"])

    def rewards(self, dimension: str) -> Tensor:
        """Return the reward of each video, `[num_videos]` float64; nan where a video failed or is not scored yet.

        For a model with several rewards it is the reward named like the dimension (upper or lower case), or else their
        sum.
        """
        return torch.tensor([reward_of(score, dimension) for score in self.scores], dtype=torch.float64)

    def swapped_rewards(self, dimension: str) -> Tensor:
        """Return the reward of each video with its swapped prompt, `[num_videos]` float64; nan where there is none."""
        places = [self._place_swapped(index) for index in range(len(self.videos))]
        scores = [None if place is None else self.swapped_scores[place] for place in places]
        return torch.tensor([reward_of(score, dimension) for score in scores], dtype=torch.float64)

    def swapped_prompt(self, index: int) -> str | None:
        """Return the prompt that a video was scored with in place of its own; None if there is none."""
        place = self._place_swapped(index)
        return None if place is None else str(self.swapped_videos[place]["prompt"])

    def _place_swapped(self, index: int) -> int | None:
        swapped = self.videos[index].get("swapped")
        return None if swapped is None else swapped - len(self.videos)

    def margins(self, dimension: str) -> Tensor:
        """Return the margin of each pair, `[num_pairs]` float64; nan where a video failed.

        It is the reward of A minus that of B; of a model that compares, the log-odds that A is better, whatever the
        dimension.
        """
        if not self.is_pairwise:
            return self.differences(self.rewards(dimension))
        found = [Comparison() if one is None else Comparison.from_json(one) for one in self.comparisons]
        return torch.tensor([one.margin for one in found], dtype=torch.float64)

    def differences(self, values: Tensor) -> Tensor:
        """Return the value of A minus that of B for each pair, `[num_pairs]`, given a value of each video."""
        return values[self._indices("a")] - values[self._indices("b")]

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
    summary, info = folder / "summary.json", json.loads((folder / "evaluation.json").read_text())
    videos, num = read_lines(folder / "videos.jsonl"), info["num_videos"]
    pairwise = info["protocol"]["kind"] == "pairwise"
    scores: list[Record | None] = [None] * len(videos) if pairwise else read_scores(folder)
    return Evaluation(
        folder=folder,
        info=info,
        pairs=read_lines(folder / "pairs.jsonl"),
        videos=videos[:num],
        scores=scores[:num],
        summary=json.loads(summary.read_text()) if summary.is_file() else {},
        swapped_videos=videos[num:],
        swapped_scores=scores[num:],
        comparisons=read_scores(folder, "pairs.jsonl") if pairwise else [],
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
