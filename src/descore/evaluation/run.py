"""Evaluation: score every video of a benchmark once, or compare its pairs, into a folder from which a run resumes.

Kills, resumes and shards change no reward (see `descore.scoring.run`), and the summary is the same to the byte.
"""

from __future__ import annotations

import json
from pathlib import Path

from descore.atomic import write_whole
from descore.evaluation.benchmark import Benchmark
from descore.evaluation.folder import Evaluation, load_evaluation
from descore.evaluation.request import check_pairs, describe_request, load_tuned, missing_message, read_items, swap_in
from descore.evaluation.summary import summarise
from descore.model.export import digest, load_processor
from descore.model.finished import find_export
from descore.scoring.folder import ScoringError, plain, write_lines
from descore.scoring.placing import choose_device
from descore.scoring.protocol import ScoringProtocol, check_count, describe_protocol
from descore.scoring.run import begin, check_shard, resumed_protocol, score_videos
from descore.tables.pairs import OnBadRow


def evaluate(
    model: str,
    benchmark: Benchmark,
    output: str | Path,
    *,
    protocol: ScoringProtocol | None = None,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    device: str | None = None,
    on_bad_row: OnBadRow = "error",
    skip_missing: bool = False,
    tie_threshold_from: str | Path | None = None,
    backbone: str | None = None,
    with_swapped_prompts: bool = False,
) -> Evaluation:
    """Evaluate a model on a benchmark, or resume an evaluation: score the videos left, then write the summary.

    Args:
        model: Exported folder, a run, of which the newest finished export is taken, or an id on the hub.
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
        with_swapped_prompts: Whether to score each video with the prompt of other videos too, and to measure how far
            the reward depends on the prompt; see `swap_prompts`.

    Returns:
        The evaluation; its summary is empty while shards are left.

    Raises:
        ScoringError: If the table cannot be read or has only one prompt to swap, an option is out of its range, videos
            are missing, the folder holds another evaluation or is being written by another process, or the thresholds
            are of another model or of this very table.
        ExportError: If the model cannot be loaded.
        FileNotFoundError: If the table does not exist.
        ReadoutError: If the model cannot give the requested reward.
    """
    protocol = protocol or ScoringProtocol()
    check_shard(shard)
    check_count("limit", limit)
    placed = choose_device(device)
    folder, model = Path(output), str(find_export(model))
    processor = load_processor(model, backbone)
    items = read_items(benchmark, limit, on_bad_row)
    if processor.settings.is_pairwise:
        check_pairs(items, benchmark, with_swapped_prompts=with_swapped_prompts)
    if items.missing and not skip_missing:
        raise ScoringError(missing_message(items, benchmark.root))
    info = describe_request(benchmark, items, limit) | {
        "model": model,
        "model_digest": digest(model, backbone),
        "protocol": describe_protocol(processor, protocol, placed, resumed_protocol(folder / "evaluation.json")),
    }
    if with_swapped_prompts:
        info["num_swapped"] = swap_in(items, benchmark)
    tuned_on = load_tuned(tie_threshold_from, info) if tie_threshold_from else None
    if not (folder / "evaluation.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / "pairs.jsonl", items.pairs)
    begin(folder / "evaluation.json", info, items.videos, processor.video_reader)
    score_videos(folder, info, items.videos.paths, shard=shard, device=device, backbone=backbone)
    evaluation = load_evaluation(folder)
    if evaluation.is_complete:
        summary = plain(summarise(evaluation, tuned_on))
        write_whole(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return load_evaluation(folder)
