"""Scores all videos of a table, and writes the same table with the fields of the score records.

The records are kept in a folder beside the output, from which a killed run resumes, until the table is written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from descore.atomic import draft_of, remove
from descore.model.export import digest, load_processor
from descore.model.finished import find_export
from descore.scoring.folder import Record, ScoringError, VideoList, plain, read_scores, relative
from descore.scoring.placing import choose_device
from descore.scoring.protocol import ScoringProtocol, check_judgement, describe_protocol
from descore.scoring.run import begin, check_shard, resumed_protocol, score_videos
from descore.scoring.score import Score
from descore.tables.formats import read_rows
from descore.tables.unscored import UnscoredTable
from descore.tables.writer import check_output, write_rows

FIELDS = tuple(field.name for field in fields(Score))
"""Fields of a score record, which are columns of a scored table."""

Places = dict[tuple[int, str], int]
"""Index of the video in each row, counted from 0, and column."""


@dataclass(frozen=True, slots=True)
class TableScores:
    """Outcome of scoring a table.

    Attributes:
        output: The scored table; it is written once every video is scored.
        num_videos: Number of videos in the cells of the table.
        left: Number of (video, prompt) that other shards have yet to score.
        failed: Reason of each failure, with its row and column.
    """

    output: Path
    num_videos: int
    left: int
    failed: list[str]


def score_table(
    model: str,
    table: UnscoredTable,
    output: str | Path,
    *,
    inputs: Sequence[str] = (),
    root: str | Path = ".",
    protocol: ScoringProtocol | None = None,
    shard: tuple[int, int] = (1, 1),
    device: str | None = None,
    backbone: str | None = None,
) -> TableScores:
    """Score the videos of a table, or resume: score those left, then write the scored table in one step.

    The scored table has the rows and columns of the table, and for each video the fields of its score record, such as
    reward_a and thought_a for the column video_a. Paths of videos that were relative to the table are relative to the
    output. Each (video, prompt) is scored once.

    Args:
        model: Exported folder, a run, of which the newest finished export is taken, or an id on the hub.
        table: Table to score, see `read_unscored`.
        output: Scored table to write: .csv, .tsv, .jsonl, .json or .parquet.
        inputs: Files that must not be overwritten, such as the table itself.
        root: Folder that the records name videos relative to, so that a run can be moved with its data.
        protocol: Options of how each video is scored; one thought at temperature 0 if not given.
        shard: Part to score, as (i, n) for part i of n, counted from 1. The shards share the output; the one that
            finishes last writes it.
        device: Device to run on, such as "cpu" or "cuda:0"; the GPU if there is one, or else the CPU, if not given.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Raises:
        ExportError: If the model cannot be loaded.
        ReadoutError: If the model cannot give the requested reward.
        ScoringError: If the output would overwrite something else, an option is out of its range, or the folder of
            records holds another request or is being written by another process.
        OSError: If the output cannot be written.
    """
    protocol, output, model = protocol or ScoringProtocol(), Path(output), str(find_export(model))
    check_shard(shard)
    placed = choose_device(device)
    _check_columns(table)
    _check_replaceable(output, [*inputs, *table.videos()])
    processor = load_processor(model, backbone)
    check_judgement(processor.settings, pairwise=False)
    table = table.placed_in(output.parent)
    videos, places = _collect(table, root)
    folder = output.with_name(f"{output.name}.scores")
    remove(draft_of(folder))
    info = {
        "format": 1,
        "table_digest": hashlib.blake2b(json.dumps(videos.records).encode(), digest_size=16).hexdigest(),
        "model": model,
        "model_digest": digest(model, backbone),
        "protocol": describe_protocol(processor, protocol, placed, resumed_protocol(folder / "request.json")),
    }
    begin(folder / "request.json", info, videos, processor.video_reader)
    score_videos(folder, info, videos.paths, shard=shard, device=device, backbone=backbone)
    return _finish(table, places, output, folder, inputs)


def _finish(table: UnscoredTable, places: Places, output: Path, folder: Path, inputs: Sequence[str]) -> TableScores:
    """Write the scored table if all videos are scored, and remove the folder of records in one step."""
    num_videos = len(table.rows) * len(table.video_columns)
    scores: list[Record | None] = []
    with suppress(FileNotFoundError):
        scores = read_scores(folder)
    if not folder.is_dir():  # another shard has just finished
        written = [row.cells for row in read_rows(str(output))]
        return TableScores(output, num_videos, 0, _failures(table, written))
    if left := scores.count(None):
        return TableScores(output, num_videos, left, [])
    rows = [_scored_row(table, number, places, scores) for number in range(len(table.rows))]
    write_rows(output, rows, inputs=inputs)
    with suppress(FileNotFoundError):  # another shard removes it
        folder.rename(draft_of(folder))
    remove(draft_of(folder))
    return TableScores(output, num_videos, 0, _failures(table, rows))


def _check_columns(table: UnscoredTable) -> None:
    added = [f"{name}{suffix_of(column)}" for column in table.video_columns for name in FIELDS]
    if taken := [name for name in added if name in table.columns]:
        raise ScoringError(
            f"the table has the columns {', '.join(taken)}, which its scored table would overwrite; rename them, or "
            "score the table that they were added to"
        )


def _check_replaceable(output: Path, inputs: Sequence[str]) -> None:
    """Check that the output can be written, and replaces nothing but a scored table."""
    try:
        check_output(output, inputs)
        found = next(iter(read_rows(str(output)))).cells if output.exists() else {"reward": None}
    except (ValueError, StopIteration) as error:
        raise ScoringError(
            str(error) or f"{output} exists, and is not a scored table; choose another output"
        ) from error
    if not set(FIELDS) & {name.removesuffix("_a").removesuffix("_A") for name in found}:
        raise ScoringError(f"{output} exists, and is not a scored table; choose another output, or remove it")


def _collect(table: UnscoredTable, root: str | Path) -> tuple[VideoList, Places]:
    """Return each (video, prompt) of a table once, and the index of the video in each row and column."""
    videos, places = VideoList(), Places()
    for number, row in enumerate(table.rows):
        for column, path in row.videos.items():
            places[number, column] = videos.add(relative(path, root), path, row.prompt)
    return videos, places


def _scored_row(table: UnscoredTable, number: int, places: Places, scores: Sequence[Record | None]) -> dict[str, Any]:
    row = table.rows[number]
    cells = {column: row.cells.get(column) for column in table.columns}
    for column in table.video_columns:
        record = scores[places[number, column]] if column in row.videos else _failure(row.errors[column])
        cells |= {f"{name}{suffix_of(column)}": (record or {})[name] for name in FIELDS}
    return cells


def _failures(table: UnscoredTable, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"row {row.number}, {column}: {reason}"
        for row, cells in zip(table.rows, rows, strict=True)
        for column in table.video_columns
        if (reason := cells[f"error{suffix_of(column)}"])
    ]


def _failure(reason: str) -> Record:
    record: Record = plain(Score(math.nan, error=reason).to_json())
    return record


def suffix_of(column: str) -> str:
    """Return how the columns of a record end, from the column of its video: "_a" of video_a."""
    return column.removeprefix("video").removeprefix("path")
