"""Evaluation: score the videos of a benchmark, each once, in a folder that a killed run goes on in.

The batches are fixed by the videos alone. A batch that was not written whole is scored again whole, and no other; so
kills, resuming and shards change no reward, and the summary is the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from descore.answer import NOT_ASKED
from descore.benchmark import Benchmark
from descore.export import describe, digest
from descore.pairs import OnBadRow, PairTable
from descore.plan import Batches, costs_of, plan, share, total
from descore.readings import choose_source
from descore.results import (
    Evaluation,
    Record,
    load_evaluation,
    plain,
    read_lines,
    relative,
    score_files,
    write_lines,
    write_whole,
)
from descore.sampling import Sampling
from descore.scoring import Scorer
from descore.settings import ModelSettings, RewardSource
from descore.summary import summarise
from descore.types import Side

__all__ = ["Evaluation", "EvaluationError", "evaluate", "load_evaluation"]

FORMAT = 1
_MAY_CHANGE = {"root", "table", "model", "description"}  # what lies there is in the digests


class EvaluationError(ValueError):
    """An evaluation that cannot begin or go on: the message says what is wrong, and what to do."""


def evaluate(
    model: str,
    benchmark: Benchmark,
    output: str | Path,
    *,
    num_thoughts: int = 1,
    thoughts: bool = True,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    batch_size: int = 8,
    device: str | None = None,
    temperature: float | None = None,
    reward_from: RewardSource | None = None,
    on_bad_row: OnBadRow = "error",
    skip_missing: bool = False,
    tie_threshold_from: str | Path | None = None,
) -> Evaluation:
    """Score the videos of a benchmark that its folder has no scores of yet; after the last of them, write the summary.

    Args:
        model: Exported folder or hub id.
        benchmark: What to evaluate on; see `load_benchmark` and `table_benchmark`.
        output: The evaluation's folder. One that was begun goes on, if model, protocol and table are the same.
        num_thoughts: Thoughts per video; the reward is their mean.
        thoughts: Whether the model thinks before it scores.
        limit: Only the first so many pairs, or single videos, of the table.
        shard: (i, n) scores part i of n, from 1. The parts share one folder, or their files are brought into one.
        batch_size: Videos scored together. It is part of the protocol, since it changes rewards by rounding errors.
        device: Where to run; a GPU if there is one.
        temperature: Of the sampling; 0 for one thought and 1 for several, if not given.
        reward_from: What the reward is read from, if not from what the model was trained for; see `Scorer`.
        on_bad_row: Whether a row that cannot be used stops the run or is counted and left out.
        skip_missing: Whether to go on where videos are missing; they count as failed.
        tie_threshold_from: A finished evaluation of another split, whose tie thresholds are tried on this one.

    Raises:
        EvaluationError: If the table cannot be read; an option is out of its range; videos are missing; the folder is
            of something else; another process writes it; or the thresholds are of another model or of this very table.
        ExportError: If the model cannot be loaded.
        FileNotFoundError: If the table is not there.
        ReadingError: If the model cannot give that reward.
    """
    _check_counts(shard, num_thoughts, limit, batch_size)
    folder = Path(output)
    settings = ModelSettings.from_json(describe(model)["settings"])
    items = _read(benchmark, limit, on_bad_row)
    if items.missing and not skip_missing:
        raise EvaluationError(_say_missing(items, benchmark.root))
    info = _describe(benchmark, items, limit) | {
        "model": model,
        "model_digest": digest(model),
        "protocol": _protocol(settings, num_thoughts if thoughts else 0, temperature, reward_from, batch_size),
    }
    tuned_on = _load_tuned(tie_threshold_from, info) if tie_threshold_from else None
    _begin(folder, info, items, settings)
    costs = [video["cost"] for video in read_lines(folder / "videos.jsonl")]
    part = share(plan(costs, batch_size), costs, shard)
    file = folder / _scores_name(folder, shard)
    with _only_writer(file):
        if left := _left_of(part, file):
            _score(file, left, items, costs, info, device)
    evaluation = load_evaluation(folder)
    if evaluation.is_complete:
        summary = plain(summarise(evaluation, tuned_on))
        write_whole(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return load_evaluation(folder)


@dataclass(frozen=True, slots=True)
class _Items:
    """What a table asks for: its records, the path of each video, the files that are not there, and rows left out."""

    pairs: list[Record]
    videos: list[Record]
    paths: list[str]
    missing: list[str]
    rejected: dict[str, int]


def _check_counts(shard: tuple[int, int], num_thoughts: int, limit: int | None, batch_size: int) -> None:
    if not 1 <= shard[0] <= shard[1]:
        raise EvaluationError(f"expected shard i/n with 1 <= i <= n, got {shard[0]}/{shard[1]}")
    counts = {"number of thoughts": num_thoughts, "limit": limit, "batch size": batch_size}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise EvaluationError(f"expected a {name} of at least 1, got {count}")


# What is asked for


def _read(benchmark: Benchmark, limit: int | None, on_bad_row: OnBadRow) -> _Items:
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
    return _Items(pairs, records, paths, list(missing), table.num_rejected())


def _annotated(side: Side) -> Record | None:
    return side.scores and {name: NOT_ASKED if score is None else score for name, score in side.scores.items()}


def _describe(benchmark: Benchmark, items: _Items, limit: int | None) -> Record:
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


def _protocol(
    settings: ModelSettings,
    num_thoughts: int,
    temperature: float | None,
    reward_from: RewardSource | None,
    batch_size: int,
) -> Record:
    num_thoughts = num_thoughts if settings.thoughts else 0
    if num_thoughts and temperature is None:
        temperature = 0.0 if num_thoughts == 1 else 1.0
    if num_thoughts:
        Sampling(num_thoughts, temperature=temperature or 0.0)  # refuses what it cannot do before anything is loaded
    video = settings.video
    return {
        "kind": "pointwise",
        "reward_from": choose_source(settings, reward_from, thoughts=num_thoughts > 0),
        "thoughts": num_thoughts,
        "temperature": temperature if num_thoughts else None,
        "fps": video.fps,
        "min_frames": video.min_frames,
        "max_frames": video.max_frames,
        "min_pixels": video.min_pixels,
        "max_pixels": video.max_pixels,
        "batch_size": batch_size,
    }


def _say_missing(items: _Items, root: Path) -> str:
    shown, files = items.missing[:10], len(set(items.paths))
    listed = "\n".join(f"  {video}" for video in shown)
    return (
        f"{len(items.missing)} of {files} video files are not there; looked in {os.path.abspath(root)}. Put them "
        f"there, or go on without them by --skip-missing. The first {len(shown)}:\n{listed}"
    )


def _load_tuned(folder: str | Path, info: Record) -> Evaluation:
    """Load the evaluation whose tie thresholds are to be tried."""
    tuned = load_evaluation(folder)
    if not tuned.summary:
        raise EvaluationError(f"{folder} is not finished: run its `descore evaluate` again, then take its thresholds")
    if (tuned.info["model_digest"], tuned.info["protocol"]) != (info["model_digest"], info["protocol"]):
        raise EvaluationError(f"{folder} is of another model or protocol, whose rewards have another scale")
    if tuned.info["table_digest"] == info["table_digest"]:
        raise EvaluationError(f"{folder} has these very pairs: its thresholds fit them already; take another split")
    return tuned


# The folder


def _begin(folder: Path, info: Record, items: _Items, settings: ModelSettings) -> None:
    """Write what is asked for, or make sure that the folder asks for the same."""
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
            f"{folder} is of another evaluation: {'; '.join(differences)}. "
            "Ask for the same again to go on with it, or choose another --output"
        )


def _flat(info: Record) -> dict[str, Any]:
    protocol: Record = info["protocol"]
    return {key: value for key, value in info.items() if key != "protocol"} | protocol


def _scores_name(folder: Path, shard: tuple[int, int]) -> str:
    """Name the file of a shard's scores; the others in the folder have to be of as many shards."""
    end = f"-of-{shard[1]}.jsonl"
    others = [p.name for p in score_files(folder) if not p.name.endswith(end if shard[1] > 1 else "scores.jsonl")]
    if others:
        raise EvaluationError(
            f"{folder} holds {', '.join(others)}, which are no part of shard {shard[0]}/{shard[1]}: go on with as many "
            "shards as they are of, or choose another --output"
        )
    return "scores.jsonl" if shard[1] == 1 else f"scores-{shard[0]}{end}"


@contextmanager
def _only_writer(file: Path) -> Iterator[None]:
    """Keep a second process from writing the same file; a process that is killed keeps nobody."""
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EvaluationError(f"{file} is being written by another process: wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()


def _left_of(part: Batches, file: Path) -> Batches:
    """Return the batches that are still to be scored, and cut off what is there of one that is not whole."""
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    lines = [line for line in lines if line.endswith(b"\n")]
    planned = list(chain.from_iterable(part))
    for number, (line, place) in enumerate(zip(lines, [*planned, None], strict=False), start=1):
        if (found := json.loads(line)["index"]) != place:
            raise EvaluationError(f"{file}, line {number}: expected video {place}, got {found}; remove the file")
    kept, num_batches = 0, 0
    while num_batches < len(part) and kept + len(part[num_batches]) <= len(lines):
        kept += len(part[num_batches])
        num_batches += 1
    if file.is_file():
        os.truncate(file, sum(map(len, lines[:kept])))
    return part[num_batches:]


# Scoring


def _score(file: Path, left: Batches, items: _Items, costs: Sequence[int], info: Record, device: str | None) -> None:
    """Score batch after batch, a line for each video."""
    num_thoughts, batch_size = info["protocol"]["thoughts"], info["protocol"]["batch_size"]
    scorer = Scorer(
        info["model"],
        device=device,
        thoughts=num_thoughts > 0,
        batch_size=batch_size,
        reward_from=info["protocol"]["reward_from"],
    )
    order = list(chain.from_iterable(left))
    videos = [items.videos[place] for place in order]
    scores = scorer.stream(
        [items.paths[place] for place in order],
        [video["prompt"] for video in videos],
        num_thoughts=max(num_thoughts, 1),
        temperature=info["protocol"]["temperature"],
        # Relative to the root, so that thoughts do not depend on where the data is mounted.
        names=[f"{video['video']}: {video['prompt']}" for video in videos],
    )
    with file.open("a", encoding="utf-8", newline="\n") as lines, _progress() as progress:
        task = progress.add_task("Scoring", total=total(costs, order), done=0, videos=len(order))
        for done, (place, score) in enumerate(zip(order, scores, strict=True), start=1):
            record = plain({"index": place} | score.to_json())
            lines.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            lines.flush()
            progress.update(task, advance=total(costs, [place]), done=done)


def _progress() -> Progress:
    """Show videos, time, and the time left by what the remaining videos cost."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]} of {task.fields[videos]} videos"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=600,
    )
