"""What an evaluation is asked for: pairs and videos of a table, the protocol, and checks before the first video."""

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
    """How each video is scored. Evaluations are compared and resumed under one protocol only.

    Attributes:
        num_thoughts: Thoughts per video; the reward is their mean.
        thoughts: Whether the model thinks before it scores.
        temperature: Sampling temperature; None takes 0 for one thought and 1 for several.
        reward_from: What the reward is read from; None takes what the model was trained for. See `Scorer`.
        batch_size: Videos scored together. Another size changes rewards by rounding errors.
    """

    num_thoughts: int = 1
    thoughts: bool = True
    temperature: float | None = None
    reward_from: RewardSource | None = None
    batch_size: int = 8


def check_counts(shard: tuple[int, int], limit: int | None, protocol: EvaluationProtocol) -> None:
    """Raise EvaluationError for a count below 1, or a shard that does not exist."""
    if not 1 <= shard[0] <= shard[1]:
        raise EvaluationError(f"expected shard i/n with 1 <= i <= n, got {shard[0]}/{shard[1]}")
    counts = {"number of thoughts": protocol.num_thoughts, "limit": limit, "batch size": protocol.batch_size}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise EvaluationError(f"expected a {name} of at least 1, got {count}")


def read_items(benchmark: Benchmark, limit: int | None, on_bad_row: OnBadRow) -> Items:
    """List each (video, prompt) once, in the order of the table."""
    try:
        table = benchmark.read(on_bad_row)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    pairs: list[Record] = []
    videos: dict[tuple[str, str], Record] = {}
    paths: list[str] = []

    def place(side: Side, prompt: str) -> int:
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
                "a": place(pair.a, pair.prompt),
                "b": place(pair.b, pair.prompt),
                "preference": dict(zip(benchmark.dimensions, labels, strict=True)),
                "scores_a": _annotated(pair.a),
                "scores_b": _annotated(pair.b),
            })
    else:
        for rated in table.videos[:limit]:
            place(rated.side, rated.prompt)
    records = list(videos.values())
    missing = dict.fromkeys(v["video"] for v, path in zip(records, paths, strict=True) if not os.path.isfile(path))
    return Items(pairs, records, paths, list(missing), table.num_rejected())


def _annotated(side: Side) -> Record | None:
    return side.scores and {name: NOT_ASKED if score is None else score for name, score in side.scores.items()}


def describe_request(benchmark: Benchmark, items: Items, limit: int | None) -> Record:
    """Describe what the scores depend on besides model and protocol, with a digest of pairs and videos."""
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
    """Describe how a model with these settings scores each video under the protocol asked for.

    Raises:
        ReadoutError: If the model cannot give that reward.
    """
    num_thoughts = asked.num_thoughts if asked.thoughts and settings.thoughts else 0
    temperature = asked.temperature
    if num_thoughts and temperature is None:
        temperature = 0.0 if num_thoughts == 1 else 1.0
    if num_thoughts:
        Sampling(num_thoughts, temperature=temperature or 0.0)  # refuses what it cannot do before anything is loaded
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


def say_missing(items: Items, root: Path) -> str:
    """Name the first video files that are not there, where they were looked for, and what to do."""
    shown, files = items.missing[:10], len(set(items.paths))
    listed = "\n".join(f"  {video}" for video in shown)
    return (
        f"{len(items.missing)} of {files} video files are not there; looked in {os.path.abspath(root)}. Put them "
        f"there, or go on without them by --skip-missing. The first {len(shown)}:\n{listed}"
    )


def load_tuned(folder: str | Path, info: Record) -> Evaluation:
    """Load the evaluation whose tie thresholds are to be tried."""
    tuned = load_evaluation(folder)
    if not tuned.summary:
        raise EvaluationError(f"{folder} is not finished: run its `descore evaluate` again, then take its thresholds")
    if (tuned.info["model_digest"], tuned.info["protocol"]) != (info["model_digest"], info["protocol"]):
        raise EvaluationError(f"{folder} is of another model or protocol, whose rewards have another scale")
    if tuned.info["table_digest"] == info["table_digest"]:
        raise EvaluationError(f"{folder} has these very pairs: its thresholds fit them already; take another split")
    return tuned
