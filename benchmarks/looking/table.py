"""The table of all that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.looking.arms import ARMS
from descore.atomic import write_whole
from descore.metrics.intervals import bootstrap_interval, paired_test

HEADER = ("way", "seeds", "accuracy", "by seed", "frames", "prompt tokens", "saw the moment", "the tool minus it")


def write_table(root: Path) -> str:
    """Write looking.md: a row for each arm that was measured, over all its seeds."""
    measured = {name: _read(root, name) for name in ARMS}
    rows = [HEADER, ("---",) * len(HEADER)]
    rows += [_row(name, measured) for name in ARMS if measured[name]]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    write_whole(root / "looking.md", table)
    return table


def _row(name: str, measured: dict[str, dict[str, list[Any]]]) -> tuple[str, ...]:
    by_seed = measured[name]
    lines = [line for own in by_seed.values() for line in own]
    right = [_is_right(line) for line in lines]
    low, high = bootstrap_interval(right, [line["id"] for line in lines])  # a pair is judged once for each seed
    each = [mean(map(_is_right, own)) for own in by_seed.values()]
    videos = [line[side] for line in lines for side in "ab"]
    frames, tokens, saw = (mean(video[key] for video in videos) for key in ("num_frames", "num_tokens", "saw"))
    return (
        ARMS[name].words,
        str(len(by_seed)),
        f"{mean(right):.3f} ({low:.3f} to {high:.3f})",
        ", ".join(f"{share:.3f}" for share in each),
        f"{frames:.1f}",
        f"{tokens:.0f}",
        f"{100 * saw:.0f} %",
        _beside(by_seed, measured["tool"]) if name != "tool" else "",
    )


def _beside(own: dict[str, list[Any]], tool: dict[str, list[Any]]) -> str:
    """Return the accuracy of the tool minus that of another arm, on the same pairs and seeds."""
    pairs = [both for seed in own.keys() & tool.keys() for both in zip(tool[seed], own[seed], strict=True)]
    if not pairs:
        return ""
    first, second = ([_is_right(pair[i]) for pair in pairs] for i in (0, 1))
    found = paired_test(first, second, [pair[0]["id"] for pair in pairs])
    return f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _is_right(line: Any) -> float:
    return float((line["a"]["reward"] - line["b"]["reward"]) * line["preference"] > 0)


def _read(root: Path, name: str) -> dict[str, list[Any]]:
    """Return what was measured of an arm, by seed."""
    files = sorted(Path(root, "measured").glob(f"{name}-*.jsonl"))
    return {file.stem.rpartition("-")[2]: list(map(json.loads, file.read_text().splitlines())) for file in files}
