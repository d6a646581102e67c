"""The request of an evaluation: pairs and videos of a table, the protocol, and checks before the first video."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from descore.answer import NOT_ASKED
from descore.evaluation.benchmark import Benchmark
from descore.evaluation.folder import Evaluation, EvaluationError, Items, Record, load_evaluation, plain, relative
from descore.inputs.settings import ModelSettings, RewardSource
from descore.model.sampling import Sampling
from descore.tables.pairs import OnBadRow, PairTable
from descore.thinking.readout import choose_source
from descore.types import Side

FORMAT = 1


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """Options of how each video is scored. An evaluation can only be resumed under the protocol it was started with.

    Attributes:
        num_thoughts: Number of thoughts per video; the reward is the mean over them.
        thoughts: Whether the model thinks before it scores.
        temperature: Sampling temperature of the thoughts; 0 (greedy) for one thought, 1 for several if not given.
        reward_from: Source of the reward; the one that the model was trained for if not given. See `Scorer`.
        batch_size: Number of videos scored together. Another size changes rewards by rounding errors.
    """

    num_thoughts: int = 1
    thoughts: bool = True
    temperature: float | None = None
    reward_from: RewardSource | None = None
    batch_size: int = 8


def check_counts(shard: tuple[int, int], limit: int | None, protocol: EvaluationProtocol) -> None:
    """Check the options of an evaluation that count something.

    Raises:
        EvaluationError: If a count is below 1, or the shard does not exist.
    """
    if not 1 <= shard[0] <= shard[1]:
        raise EvaluationError(f"expected a shard I/N with 1 <= I <= N, got {shard[0]}/{shard[1]}")
    counts = {"number of thoughts": protocol.num_thoughts, "limit": limit, "batch size": protocol.batch_size}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise EvaluationError(f"expected a {name} of at least 1, got {count}")


def read_items(benchmark: Benchmark, limit: int | None, on_bad_row: OnBadRow) -> Items:
    """Read a benchmark's table, and list each (video, prompt) once, in the order of the table.

    Args:
        benchmark: Benchmark to read.
        limit: Number of pairs, or of single videos, to take from the start of the table; all if not given.
        on_bad_row: "error" stops at a row that cannot be used; "skip" leaves such rows out and counts them.

    Raises:
        EvaluationError: If the table cannot be read.
        FileNotFoundError: If the table does not exist.
    """
    try:
        table = benchmark.read(on_bad_row)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    pairs: list[Record] = []
    videos: dict[tuple[str, str], Record] = {}
    paths: list[str] = []

    def add(side: Side, prompt: str) -> int:
        video = relative(side.video, benchmark.root)
        if (video, prompt) not in videos:
            mos = dict(zip(benchmark.dimensions, side.mos or (None,) * len(benchmark.dimensions), strict=True))
            record = {"index": len(videos), "video": video, "prompt": prompt, "generator": side.generator, "mos": mos}
            videos[video, prompt] = plain(record)
            paths.append(side.video)
        index: int = videos[video, prompt]["index"]
        return index

    if isinstance(table, PairTable):
        for pair in table.pairs[:limit]:
            labels = (None if math.isnan(label) else int(label) for label in pair.preference)
            pairs.append({
                "id": pair.id,
                "prompt": pair.prompt,
                "a": add(pair.a, pair.prompt),
                "b": add(pair.b, pair.prompt),
                "preference": dict(zip(benchmark.dimensions, labels, strict=True)),
                "scores_a": _annotated(pair.a),
                "scores_b": _annotated(pair.b),
            })
    else:
        for rated in table.videos[:limit]:
            add(rated.side, rated.prompt)
    records = list(videos.values())
    missing = dict.fromkeys(v["video"] for v, path in zip(records, paths, strict=True) if not os.path.isfile(path))
    return Items(pairs, records, paths, list(missing), table.num_rejected())


def _annotated(side: Side) -> Record | None:
    return side.scores and {name: NOT_ASKED if score is None else score for name, score in side.scores.items()}


def describe_request(benchmark: Benchmark, items: Items, limit: int | None) -> Record:
    """Return the entries of evaluation.json that describe the benchmark, with a digest of its pairs and videos."""
    content = json.dumps([items.pairs, items.videos], sort_keys=True)
    return {
        "format": FORMAT,
        "benchmark": benchmark.name,
        "description": benchmark.description,
        "table": str(benchmark.table),
        "table_digest": hashlib.blake2b(content.encode(), digest_size=16).hexdigest(),
        "root": os.path.abspath(benchmark.root),
        "preset": benchmark.preset,
        "dimensions": list(benchmark.dimensions),
        "limit": limit,
        "num_videos": len(items.videos),
        "num_pairs": len(items.pairs),
        "rejected": items.rejected,
        "missing": items.missing,
    }


def make_protocol(settings: ModelSettings, asked: EvaluationProtocol) -> Record:
    """Return the entry of evaluation.json that describes how a model with these settings scores each video.

    Raises:
        ReadoutError: If the model cannot give the requested reward.
        ValueError: If the number of thoughts or the temperature is out of its range.
    """
    num_thoughts = asked.num_thoughts if asked.thoughts and settings.thoughts else 0
    temperature = asked.temperature
    if num_thoughts and temperature is None:
        temperature = 0.0 if num_thoughts == 1 else 1.0
    if num_thoughts:
        Sampling(num_thoughts, temperature=temperature or 0.0)  # raises before anything is loaded
    video = settings.video
    return {
        "kind": "pointwise",
        "reward_from": choose_source(settings, asked.reward_from, thoughts=num_thoughts > 0),
        "thoughts": num_thoughts,
        "temperature": temperature if num_thoughts else None,
        "fps": video.fps,
        "min_frames": video.min_frames,
        "max_frames": video.max_frames,
        "min_pixels": video.min_pixels,
        "max_pixels": video.max_pixels,
        "batch_size": asked.batch_size,
    }


def missing_message(items: Items, root: Path) -> str:
    """Return the error message for missing video files: the first ten, where they were expected, and what to do."""
    shown, files = items.missing[:10], len(set(items.paths))
    listed = "\n".join(f"  {video}" for video in shown)
    return (
        f"{len(items.missing)} of {files} video files are missing; paths are relative to {os.path.abspath(root)}. Put "
        f"them there, or evaluate without them with --skip-missing. The first {len(shown)}:\n{listed}"
    )


def load_tuned(folder: str | Path, info: Record) -> Evaluation:
    """Load the finished evaluation whose tie thresholds are applied to another one.

    Args:
        folder: Folder of the finished evaluation.
        info: Content of evaluation.json of the other one.

    Raises:
        EvaluationError: If the evaluation is not finished, is of another model or protocol, or of the same table.
        FileNotFoundError: If the folder is not one that `descore evaluate` wrote.
    """
    tuned = load_evaluation(folder)
    if not tuned.summary:
        raise EvaluationError(
            f"{folder} is not finished: repeat its `descore evaluate` command to finish it, then take its thresholds"
        )
    if (tuned.info["model_digest"], tuned.info["protocol"]) != (info["model_digest"], info["protocol"]):
        raise EvaluationError(
            f"{folder} is of another model or protocol, whose rewards have another scale; evaluate the other split "
            "with this model and these options first"
        )
    if tuned.info["table_digest"] == info["table_digest"]:
        raise EvaluationError(
            f"{folder} was evaluated on these very pairs, which its thresholds were tuned on; evaluate another split "
            "and take its thresholds"
        )
    return tuned
