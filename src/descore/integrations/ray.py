"""Scoring with Ray Data where one machine is not enough: an actor for `map_batches`, and a pipeline over Parquet.

A table of Parquet files, with a column `prompt` and the paths or URLs of the videos in `video`, becomes the same table
with the fields of the score records. A video that fails is a row with its reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from descore.integrations.calling import VideoScorer, scorer_of
from descore.scoring.folder import plain
from descore.scoring.score import Score
from descore.tables.locations import is_url, locate

if TYPE_CHECKING:
    import pyarrow

COLUMNS = {
    "reward": "double",
    "rewards": "string",
    "thought": "string",
    "dimension_scores": "string",
    "overall_score": "double",
    "num_thought_tokens": "int64",
    "truncated": "bool",
    "reward_std": "double",
    "each": "string",
    "normalised_reward": "double",
    "error": "string",
}
"""Columns that are added, with their types, which are the same in every block; objects are JSON."""

READERS = 8
"""Videos of a batch that are fetched at the same time."""


class ScoreBatch:
    """Actor class for `ray.data.Dataset.map_batches(ScoreBatch, batch_format="pyarrow", ...)`: one model per actor.

    Args:
        model: Exported folder or id on the hub, which every node of the cluster can read, or a scorer or client.
        table: Path or URL of the table, which relative paths of videos are relative to.
        num_thoughts: Number of thoughts per video; the reward is the mean over them.
        **options: Options of `Scorer`.

    Raises:
        ExportError, ScoringError: See `Scorer`.
    """

    def __init__(self, model: str | VideoScorer, *, table: str = "", num_thoughts: int = 1, **options: Any) -> None:
        self.scorer = scorer_of(model, **options)
        self.table, self.num_thoughts = table, num_thoughts

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Score the videos of a batch of rows, and return the rows with the columns of `COLUMNS` added.

        Raises:
            ValueError: If the batch has no column prompt or video, or has one of `COLUMNS` already.
        """
        import pyarrow

        _check_columns(batch.column_names)
        scores = self._score(batch.column("prompt").to_pylist(), batch.column("video").to_pylist())
        records = [plain(score.to_json()) for score in scores]
        for name, kind in COLUMNS.items():
            cells = [record[name] for record in records]
            cells = [json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in cells]
            batch = batch.append_column(name, pyarrow.array(cells, type=pyarrow.type_for_alias(kind)))
        return batch

    def _score(self, prompts: Sequence[Any], cells: Sequence[Any]) -> list[Score]:
        with ThreadPoolExecutor(READERS) as pool:
            videos = list(pool.map(self._fetch, cells))
        usable = [place for place, video in enumerate(videos) if not isinstance(video, Exception)]
        asked = [videos[place] for place in usable], [prompts[place] for place in usable]
        found = dict(zip(usable, self.scorer.score(*asked, num_thoughts=self.num_thoughts), strict=True))
        return [
            found.get(place) or Score(math.nan, error=f"{cell}: {video!s}")
            for place, (cell, video) in enumerate(zip(cells, videos, strict=True))
        ]

    def _fetch(self, cell: Any) -> str | bytes | Exception:
        """Return the path of a local video, the bytes of one at a URL, or the error of one that cannot be fetched."""
        if not isinstance(cell, str) or not cell:
            return ValueError("expected the path or URL of a video")
        video = locate(self.table, cell)
        if not is_url(video):
            return video
        import fsspec

        try:
            with fsspec.open(video, "rb") as file:
                content: bytes = file.read()
        except Exception as error:  # every filesystem has errors of its own; the row tells which
            return error
        return content


def score_parquet(
    source: str,
    output: str,
    model: str,
    *,
    checkpoint: str,
    id_column: str = "id",
    num_actors: int = 1,
    gpus_per_actor: float = 0,
    batch_size: int = 64,
    num_thoughts: int = 1,
    **options: Any,
) -> None:
    """Score the videos of Parquet files on a Ray cluster, and write the scored rows as Parquet files.

    A pipeline that is killed resumes when it is started again with the same arguments: Ray Data records the ids of the
    rows of each block that was written, and leaves them out. One that was finished has only new rows left to score.

    Args:
        source: Path or URL of a Parquet file or a folder of them.
        output: Path or URL of the folder to write to.
        model: Exported folder or id on the hub, which every node of the cluster can read.
        checkpoint: Path or URL of a folder that every node can write to, for the ids that are done.
        id_column: Column of values that are different in every row.
        num_actors: Number of actors, each of which loads the model.
        gpus_per_actor: GPUs of an actor; 0 scores on CPUs.
        batch_size: Number of rows that an actor scores at a time.
        num_thoughts: Number of thoughts per video; the reward is the mean over them.
        **options: Options of `Scorer`.

    Raises:
        ImportError: If Ray is not installed.
    """
    try:
        import ray
        from ray.data.checkpoint import CheckpointConfig
    except ImportError as error:
        raise ImportError("scoring on a cluster requires Ray: pip install 'descore[ray]'") from error
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column=id_column, checkpoint_path=checkpoint, delete_checkpoint_on_success=False
    )
    scored = ray.data.read_parquet(source).map_batches(
        ScoreBatch,
        fn_constructor_args=(model,),
        fn_constructor_kwargs={"table": source, "num_thoughts": num_thoughts, **options},
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_gpus=gpus_per_actor,
    )
    scored.write_parquet(output)


def _check_columns(names: Sequence[str]) -> None:
    if missing := {"prompt", "video"} - set(names):
        raise ValueError(f"expected the columns prompt and video, found {', '.join(names)}: no {', '.join(missing)}")
    if taken := [name for name in COLUMNS if name in names]:
        raise ValueError(f"the table has the columns {', '.join(taken)}, which are to be added; rename them")
