"""An evaluation's folder, and what can be read of it.

evaluation.json          model, protocol, benchmark: what the scores depend on
pairs.jsonl              the pairs, by the places of their videos
videos.jsonl             every (video, prompt) once, with what scoring it is estimated to take
scores.jsonl             a line per video, in the order of the plan; with shards scores-1-of-8.jsonl and so on
summary.json             once every video is scored
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from descore.folders import replace

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation's folder holds.

    Attributes:
        folder: The folder.
        info: evaluation.json.
        pairs: pairs.jsonl; none where the benchmark has single videos.
        videos: videos.jsonl.
        scores: The score record of each video; None while it is missing.
        summary: summary.json; empty until every video is scored.
    """

    folder: Path
    info: Record
    pairs: list[Record]
    videos: list[Record]
    scores: list[Record | None]
    summary: Record

    @property
    def is_complete(self) -> bool:
        """Whether every video has its record, of a reward or of a failure."""
        return None not in self.scores

    def rewards(self, dimension: str) -> Tensor:
        """Return `[num_videos]` float64 rewards, nan where a video failed or is not scored yet.

        Of a model with several rewards it is the one with the dimension's name, in any case, or else their sum.
        """
        return torch.tensor([reward_of(score, dimension) for score in self.scores], dtype=torch.float64)

    def margins(self, dimension: str) -> Tensor:
        """Return `[num_pairs]` float64: the reward of A minus that of B, nan where a video failed."""
        rewards = self.rewards(dimension)
        return rewards[self._places("a")] - rewards[self._places("b")]

    def preferences(self, dimension: str) -> Tensor:
        """Return `[num_pairs]` float64: +1 A, -1 B, 0 tie, nan without a usable label."""
        labels = [number(pair["preference"][dimension]) for pair in self.pairs]
        return torch.tensor(labels, dtype=torch.float64)

    def opinions(self, dimension: str) -> Tensor:
        """Return `[num_videos]` float64 mean opinion scores, nan where there is none."""
        return torch.tensor([number(video["mos"][dimension]) for video in self.videos], dtype=torch.float64)

    def _places(self, side: str) -> Tensor:
        return torch.tensor([pair[side] for pair in self.pairs], dtype=torch.int64)


def load_evaluation(folder: str | Path) -> Evaluation:
    """Read an evaluation's folder, finished or not.

    Raises:
        FileNotFoundError: If it is no such folder.
    """
    folder = Path(folder)
    if not (folder / "evaluation.json").is_file():
        raise FileNotFoundError(f"{folder} is no folder of `descore evaluate`: it has no evaluation.json")
    videos = read_lines(folder / "videos.jsonl")
    scores: list[Record | None] = [None] * len(videos)
    for path in score_files(folder):
        for score in read_lines(path):
            scores[score["index"]] = score
    summary = folder / "summary.json"
    return Evaluation(
        folder=folder,
        info=json.loads((folder / "evaluation.json").read_text()),
        pairs=read_lines(folder / "pairs.jsonl"),
        videos=videos,
        scores=scores,
        summary=json.loads(summary.read_text()) if summary.is_file() else {},
    )


def score_files(folder: Path) -> list[Path]:
    """Return the files of scores in a folder."""
    return sorted([*folder.glob("scores.jsonl"), *folder.glob("scores-*-of-*.jsonl")])


def read_lines(path: Path) -> list[Record]:
    """Read the lines of a JSONL file; a last line without its end is one that is being written."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write a JSONL file, whole or not at all."""
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all, whoever else writes it at the same time."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    draft.write_text(text, encoding="utf-8", newline="\n")
    replace(draft, path)


def reward_of(score: Record | None, dimension: str) -> float:
    """Return the reward of a score record for a dimension; nan where there is none."""
    if score is None:
        return math.nan
    by_name = {name.lower(): reward for name, reward in score["rewards"].items()}
    return number(by_name.get(dimension.lower(), score["reward"]))


def number(value: float | None) -> float:
    """Read a number of a record, nan for null."""
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """Return a value for JSON: null where a number is nan."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def relative(path: str, root: Path) -> str:
    """Return a path relative to a folder, if it lies below it; else as it is."""
    full, folder = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(full, folder) if Path(full).is_relative_to(folder) else path
