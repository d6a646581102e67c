"""Scoring into a folder from which a killed run resumes.

The batches are determined by the videos alone, and a resumed run repeats only the batch that was not written whole.
So kills, resumes and shards change no reward.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from descore.atomic import write_whole
from descore.pairwise.comparison import Comparison
from descore.scoring.folder import (
    Record,
    ScoringError,
    VideoList,
    check_same,
    exclusive_writer,
    find_unscored,
    name_scores_file,
    plain,
    read_lines,
    write_lines,
)
from descore.scoring.progress import progress
from descore.scoring.schedule import Batches, count_tokens, order_batches, take_shard, total_cost
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from descore.video.frames import VideoReader

PROMPT_TOKENS = 256
"""Tokens that are planned for a prompt and its template."""


def resumed_protocol(request: Path) -> Record | None:
    """Return the protocol of the run that a request began; None if there is no such run."""
    if not request.is_file():
        return None
    protocol: Record = json.loads(request.read_text())["protocol"]
    return protocol


def begin(request: Path, info: Record, videos: VideoList, reader: VideoReader) -> None:
    """Write the request of a run and its videos, or check that the folder already holds the same request.

    Args:
        request: File of the request, in the run's folder, which need not exist yet.
        info: Content of the request; its entry "protocol" is a record too.
        videos: Videos of the run.
        reader: Sampling and size of frames, from which the cost of each video follows.

    Raises:
        ScoringError: If the folder holds another request.
    """
    if request.is_file():
        check_same(request.parent, json.loads(request.read_text()), info)
        return
    request.parent.mkdir(parents=True, exist_ok=True)
    costs = count_tokens(videos.paths, reader)
    records = [video | {"cost": cost} for video, cost in zip(videos.records, costs, strict=True)]
    write_lines(request.parent / "videos.jsonl", records)
    write_whole(request, json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def check_shard(shard: tuple[int, int]) -> None:
    """Check a shard (i, n), part i of n counted from 1.

    Raises:
        ScoringError: If there is no such part.
    """
    if not 1 <= shard[0] <= shard[1]:
        raise ScoringError(f"expected a shard I/N with 1 <= I <= N, got {shard[0]}/{shard[1]}")


def score_videos(
    folder: Path,
    info: Record,
    paths: Sequence[str],
    *,
    shard: tuple[int, int] = (1, 1),
    device: str | None = None,
    backbone: str | None = None,
) -> None:
    """Score the videos of a run that are left, and append each record to the shard's file as it comes.

    Args:
        folder: Folder of the run, in which `begin` wrote the request.
        info: Content of the request: model and protocol.
        paths: Path of each video, in the order of videos.jsonl.
        shard: Part to score, as (i, n) for part i of n, counted from 1.
        device: Device to run on; the GPU if there is one, or else the CPU, if not given.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Raises:
        ExportError: If the model cannot be loaded.
        ScoringError: If the folder is being written by another process, or holds other scores.
    """
    videos = read_lines(folder / "videos.jsonl")
    costs = [video["cost"] for video in videos]
    protocol = info["protocol"]
    more = PROMPT_TOKENS + protocol["thoughts"] * protocol["max_thought_tokens"]
    pairs = read_lines(folder / "pairs.jsonl") if protocol["kind"] == "pairwise" else None
    if pairs is not None:  # both videos are read in either order
        costs, more = [2 * (costs[pair["a"]] + costs[pair["b"]]) for pair in pairs], 2 * more
    part = take_shard(order_batches(costs, protocol["max_batch_tokens"], more), costs, shard)
    file = folder / name_scores_file(folder, shard)
    with exclusive_writer(file):
        if left := find_unscored(part, file):
            records = _records(_scorer(info, device, backbone), left, (videos, pairs), paths, protocol)
            _write(file, list(chain.from_iterable(left)), records, costs)


def _scorer(info: Record, device: str | None, backbone: str | None) -> Scorer:
    protocol = info["protocol"]
    return Scorer(
        info["model"],
        device=device,
        thoughts=protocol["thoughts"] > 0,
        dtype=protocol["dtype"],
        max_batch_tokens=protocol["max_batch_tokens"],
        reward_from=protocol["reward_from"],
        backbone=backbone,
    )


def _records(
    scorer: Scorer,
    left: Batches,
    listed: tuple[Sequence[Record], Sequence[Record] | None],
    paths: Sequence[str],
    protocol: Record,
) -> Iterator[Score | Comparison]:
    """Score videos, or compare pairs, batch after batch; `listed` is the videos, and the pairs if there are to be any.

    Yields:
        The record of each item of the batches, in their order.
    """
    (videos, pairs), order = listed, list(chain.from_iterable(left))
    options: dict[str, Any] = {
        "num_thoughts": max(protocol["thoughts"], 1),
        "temperature": protocol["temperature"],
        "batches": [len(batch) for batch in left],
    }
    if pairs is None:
        return scorer.stream([paths[index] for index in order], [videos[i]["prompt"] for i in order], **options)
    asked = [pairs[index] for index in order]
    a, b = ([paths[pair[side]] for pair in asked] for side in "ab")
    return scorer.stream_comparisons(a, b, [pair["prompt"] for pair in asked], **options)


def _write(file: Path, order: Sequence[int], scores: Iterable[Score | Comparison], costs: Sequence[int]) -> None:
    """Append one line per item to the file, as each record comes."""
    with (
        file.open("a", encoding="utf-8", newline="\n") as lines,
        progress("Scoring", len(order), total_cost(costs, order)) as advance,
    ):
        for index, score in zip(order, scores, strict=True):
            record = plain({"index": index} | score.to_json())
            lines.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            lines.flush()
            advance(total_cost(costs, [index]))
