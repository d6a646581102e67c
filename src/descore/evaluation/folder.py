"""The output folder of an evaluation: its files, and how they are written, checked and read.

evaluation.json     model, protocol and benchmark: everything that the scores depend on
pairs.jsonl         the pairs; each names its videos by their index in videos.jsonl
videos.jsonl        every (video, prompt) once, with the estimated cost of scoring it
scores.jsonl        one score record per line, in scoring order; with shards scores-1-of-8.jsonl and so on
summary.json        all numbers, written once every video is scored
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from descore.atomic import write_whole
from descore.evaluation.schedule import Batches, costs_of
from descore.inputs.settings import ModelSettings

Record = dict[str, Any]


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
    """Return the files of scores in an evaluation's folder, one per shard."""
    return sorted([*folder.glob("scores.jsonl"), *folder.glob("scores-*-of-*.jsonl")])


def read_lines(path: Path) -> list[Record]:
    """Read a JSONL file; a last line without a line end is ignored, since it is still being written."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write a JSONL file atomically."""
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


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


def plain(value: Any) -> Any:
    """Return a value with None (null in JSON) in place of every nan, in dicts, lists and tuples too.

    >>> plain({"accuracy": math.nan, "interval": (0.5, 1.0)})
    {'accuracy': None, 'interval': [0.5, 1.0]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def relative(path: str, root: Path) -> str:
    """Return a path relative to a folder if it lies below it, and unchanged otherwise.

    >>> relative("data/videos/a.mp4", Path("data")), relative("elsewhere/a.mp4", Path("data"))
    ('videos/a.mp4', 'elsewhere/a.mp4')
    """
    full, folder = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(full, folder) if Path(full).is_relative_to(folder) else path


_MAY_CHANGE = {"root", "table", "model", "description"}  # digests cover the content at these locations


class EvaluationError(ValueError):
    """An evaluation that cannot start or resume; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Items:
    """The videos and pairs of a table.

    Attributes:
        pairs: Records of pairs.jsonl.
        videos: Records of videos.jsonl, without their cost.
        paths: Path of each video.
        missing: Names of the videos whose file does not exist.
        rejected: Number of rows left out, by reason.
    """

    pairs: list[Record]
    videos: list[Record]
    paths: list[str]
    missing: list[str]
    rejected: dict[str, int]


def begin(folder: Path, info: Record, items: Items, settings: ModelSettings) -> None:
    """Write the request of an evaluation into its folder, or check that the folder already holds the same request.

    Args:
        folder: Folder of the evaluation.
        info: Content of evaluation.json.
        items: Videos and pairs of the table.
        settings: Settings of the model, from which the cost of each video is estimated.

    Raises:
        EvaluationError: If the folder holds another evaluation.
    """
    begun = folder / "evaluation.json"
    if begun.is_file():
        _check_same(folder, json.loads(begun.read_text()), info)
        return
    folder.mkdir(parents=True, exist_ok=True)
    costs = costs_of(items.paths, settings.video)
    write_lines(folder / "pairs.jsonl", items.pairs)
    videos = zip(items.videos, costs, strict=True)
    write_lines(folder / "videos.jsonl", [video | {"cost": cost} for video, cost in videos])
    write_whole(begun, json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def _check_same(folder: Path, found: Record, wanted: Record) -> None:
    before, now = _flat(found), _flat(wanted)
    differences = [
        f"{key} is {now.get(key)!r} and was {before.get(key)!r}"
        for key in dict.fromkeys([*before, *now])
        if key not in _MAY_CHANGE and before.get(key) != now.get(key)
    ]
    if differences:
        raise EvaluationError(
            f"{folder} holds another evaluation: {'; '.join(differences)}. "
            "Repeat the command with the old values to resume it, or choose another --output"
        )


def _flat(info: Record) -> dict[str, Any]:
    protocol: Record = info["protocol"]
    return {key: value for key, value in info.items() if key != "protocol"} | protocol


def name_scores_file(folder: Path, shard: tuple[int, int]) -> str:
    """Return the name of a shard's file of scores.

    Raises:
        EvaluationError: If the folder holds scores of another number of shards.
    """
    end = f"-of-{shard[1]}.jsonl"
    others = [p.name for p in score_files(folder) if not p.name.endswith(end if shard[1] > 1 else "scores.jsonl")]
    if others:
        raise EvaluationError(
            f"{folder} holds {', '.join(others)}, which do not belong to shard {shard[0]}/{shard[1]}: use the "
            "number of shards that this evaluation was started with, or choose another --output"
        )
    return "scores.jsonl" if shard[1] == 1 else f"scores-{shard[0]}{end}"


@contextmanager
def exclusive_writer(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file; the OS releases it if the process dies."""
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EvaluationError(f"{file} is being written by another process; wait for it to end, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def find_unscored(part: Batches, file: Path) -> Batches:
    """Return the batches that are still to be scored, and truncate the file after its last complete batch.

    Args:
        part: Batches of this shard, in scoring order.
        file: File of the shard's scores; it need not exist.

    Raises:
        EvaluationError: If the file holds scores of other videos.
    """
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    lines = [line for line in lines if line.endswith(b"\n")]
    planned = list(chain.from_iterable(part))
    for number, (line, index) in enumerate(zip(lines, [*planned, None], strict=False), start=1):
        if (found := json.loads(line)["index"]) != index:
            raise EvaluationError(
                f"{file}, line {number}: expected video {index}, got {found}; remove the file to score its videos again"
            )
    kept, num_batches = 0, 0
    while num_batches < len(part) and kept + len(part[num_batches]) <= len(lines):
        kept += len(part[num_batches])
        num_batches += 1
    if file.is_file():
        os.truncate(file, sum(map(len, lines[:kept])))
    return part[num_batches:]
