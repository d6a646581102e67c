"""Pair tables as people write them."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from descore.evaluation.benchmark import Benchmark, table_benchmark
from descore.tables.pairs import PairTable

SCORES = {"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}
SCORES_CELL = {**SCORES, "camera": "N/A"}


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ours(**cells: object) -> dict[str, object]:
    return {"prompt": "a cat", "video_a": "a.mp4", "video_b": "b.mp4", "preference": "A", **cells}


def labels(table: PairTable) -> list[tuple[float, ...]]:
    return [pair.preference for pair in table.pairs]


def with_gaps(data: Path, folder: Path) -> Benchmark:
    """The same pairs, of which one video is missing and one cannot be read."""
    shutil.copytree(data, folder)
    (folder / "videos/3.mp4").unlink()
    (folder / "videos/2.mp4").write_bytes((data / "videos/2.mp4").read_bytes()[:900])
    return table_benchmark(folder / "pairs.jsonl")
