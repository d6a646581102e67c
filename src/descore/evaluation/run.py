"""Evaluation: score every video of a benchmark once, into a folder from which a killed run resumes.

The batches are determined by the videos alone, and a resumed run repeats only the batch that was not written whole.
So kills, resumes and shards change no reward, and the summary is the same to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from descore.atomic import write_whole
from descore.evaluation.benchmark import Benchmark
from descore.evaluation.folder import (
    Evaluation,
    EvaluationError,
    Items,
    Record,
    begin,
    exclusive_writer,
    find_unscored,
    load_evaluation,
    name_scores_file,
    plain,
    read_lines,
)
from descore.evaluation.request import (
    EvaluationProtocol,
    check_counts,
    describe_request,
    load_tuned,
    make_protocol,
    missing_message,
    read_items,
)
from descore.evaluation.schedule import Batches, order_batches, take_shard, total_cost
from descore.evaluation.summary import summarise
from descore.model.export import describe, digest
from descore.scoring.scorer import Scorer
from descore.tables.pairs import OnBadRow

__all__ = ["Evaluation", "EvaluationError", "EvaluationProtocol", "evaluate", "load_evaluation"]


def evaluate(
    model: str,
    benchmark: Benchmark,
    output: str | Path,
    *,
    protocol: EvaluationProtocol | None = None,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    device: str | None = None,
    on_bad_row: OnBadRow = "error",
    skip_missing: bool = False,
    tie_threshold_from: str | Path | None = None,
    backbone: str | None = None,
) -> Evaluation:
    """Evaluate a model on a benchmark, or resume an evaluation: score the videos left, then write the summary.

    Args:
        model: Exported folder, or its id on the hub.
        benchmark: Benchmark to evaluate on; see `load_benchmark` and `table_benchmark`.
        output: Folder of the evaluation. If it holds an unfinished evaluation of the same model, protocol and table,
            that evaluation is resumed.
        protocol: Options of how each video is scored; one thought at temperature 0 if not given.
        limit: Number of pairs, or of single videos, to take from the start of the table; all if not given.
        shard: Part to score, as (i, n) for part i of n, counted from 1. The shards share one folder, or their files of
            scores are copied into one; the shard that finishes last writes the summary.
        device: Device to run on, such as "cpu" or "cuda:0"; the GPU if there is one, or else the CPU, if not given.
        on_bad_row: "error" stops at a row that cannot be used; "skip" leaves such rows out and counts them.
        skip_missing: Whether to evaluate although video files are missing; missing videos count as failed.
        tie_threshold_from: Folder of a finished evaluation of another split, whose tie thresholds are applied to this
            one too.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Returns:
        The evaluation; its summary is empty while shards are left.

    Raises:
        EvaluationError: If the table cannot be read, an option is out of its range, videos are missing, the folder
            holds another evaluation or is being written by another process, or the thresholds are of another model or
            of this very table.
        ExportError: If the model cannot be loaded.
        FileNotFoundError: If the table does not exist.
        ReadoutError: If the model cannot give the requested reward.
    """
    protocol = protocol or EvaluationProtocol()
    check_counts(shard, limit, protocol)
    folder = Path(output)
    settings = describe(model, backbone).settings
    items = read_items(benchmark, limit, on_bad_row)
    if items.missing and not skip_missing:
        raise EvaluationError(missing_message(items, benchmark.root))
    info = describe_request(benchmark, items, limit) | {
        "model": model,
        "model_digest": digest(model, backbone),
        "protocol": make_protocol(settings, protocol),
    }
    tuned_on = load_tuned(tie_threshold_from, info) if tie_threshold_from else None
    begin(folder, info, items, settings)
    costs = [video["cost"] for video in read_lines(folder / "videos.jsonl")]
    part = take_shard(order_batches(costs, protocol.batch_size), costs, shard)
    file = folder / name_scores_file(folder, shard)
    with exclusive_writer(file):
        if left := find_unscored(part, file):
            _score(file, left, items, costs, info, device, backbone)
    evaluation = load_evaluation(folder)
    if evaluation.is_complete:
        summary = plain(summarise(evaluation, tuned_on))
        write_whole(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return load_evaluation(folder)


def _score(
    file: Path,
    left: Batches,
    items: Items,
    costs: Sequence[int],
    info: Record,
    device: str | None,
    backbone: str | None,
) -> None:
    """Score batch after batch, and append one line per video to the file."""
    num_thoughts, batch_size = info["protocol"]["thoughts"], info["protocol"]["batch_size"]
    scorer = Scorer(
        info["model"],
        device=device,
        thoughts=num_thoughts > 0,
        batch_size=batch_size,
        reward_from=info["protocol"]["reward_from"],
        backbone=backbone,
    )
    order = list(chain.from_iterable(left))
    videos = [items.videos[index] for index in order]
    scores = scorer.stream(
        [items.paths[index] for index in order],
        [video["prompt"] for video in videos],
        num_thoughts=max(num_thoughts, 1),
        temperature=info["protocol"]["temperature"],
        # Relative to the root, so that thoughts do not depend on where the data is mounted.
        names=[f"{video['video']}: {video['prompt']}" for video in videos],
    )
    with file.open("a", encoding="utf-8", newline="\n") as lines, _progress() as progress:
        task = progress.add_task("Scoring", total=total_cost(costs, order), done=0, videos=len(order))
        for done, (index, score) in enumerate(zip(order, scores, strict=True), start=1):
            record = plain({"index": index} | score.to_json())
            lines.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            lines.flush()
            progress.update(task, advance=total_cost(costs, [index]), done=done)


def _progress() -> Progress:
    """Make a progress bar: videos done, time elapsed, and time left as estimated from the cost of what remains."""
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
