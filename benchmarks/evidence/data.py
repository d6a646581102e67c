"""The pairs of the evidence, rendered once; tables of fewer pairs, and of thoughts that are wrong to a known share."""

from __future__ import annotations

from pathlib import Path

from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.scene import Split
from data_modules.world.teacher import Teacher
from descore.answer import overall_score
from descore.tables.pairs import read_pairs
from descore.tables.writer import write_pairs
from descore.types import Pair

SPLITS: dict[Split, str] = {"val": "in-domain", "ood": "out-of-domain"}
CORRUPTED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the dimensions that a thought gets wrong; the first one gets all right."""

CLEAR = 1.0
"""How far the overall scores of a pair are apart at least, of 1 to 5; the backbone is too small for closer calls."""

RENDERED_EACH = 3
"""Pairs that are rendered for each one that is wanted; about every second one is clear."""


def prepare(root: Path, num_train: int, smaller: tuple[int, ...], num_held_out: int) -> None:
    """Render what is not there yet, and keep the pairs of which one video is clearly better.

    Args:
        root: Folder of the evidence; its data lie in `data`.
        num_train: Training pairs.
        smaller: Smaller numbers, each a table of the first pairs.
        num_held_out: Pairs of each of both held-out splits.
    """
    for size in (num_train, *smaller):
        _write(root, "train", num_train, Teacher(), train_table(root, size), size)
    for split in SPLITS:
        for share in CORRUPTED:
            teacher = Teacher(habits={}, corrupt=share)
            _write(root, split, num_held_out, teacher, thoughts_table(root, split, share), num_held_out)
        _write(root, split, num_held_out, Teacher(), pairs_table(root, split), num_held_out)


def _write(root: Path, split: Split, wanted: int, teacher: Teacher, path: Path, size: int) -> None:
    """Write a table of the first clear pairs of a split that has more than are wanted."""
    settings = RenderSettings(teacher=teacher)
    table = render_split(root / "data", split, RENDERED_EACH * wanted, settings, seed=0)
    clear = [pair for pair in read_pairs(table, check_videos=False).pairs if _is_clear(pair)]
    if len(clear) < wanted:
        raise ValueError(f"{table}: expected at least {wanted} pairs of clear preference, got {len(clear)}")
    write_pairs(path, clear[:size])


def _is_clear(pair: Pair) -> bool:
    assert pair.a.scores is not None
    assert pair.b.scores is not None
    return abs(overall_score(pair.a.scores) - overall_score(pair.b.scores)) >= CLEAR


def train_table(root: Path, size: int) -> Path:
    """Where the first training pairs lie."""
    return root / "data" / "train" / f"clear-{size}.jsonl"


def pairs_table(root: Path, split: str) -> Path:
    """Where the pairs of a split lie, with the thoughts of the teacher of the training."""
    return root / "data" / split / "clear.jsonl"


def thoughts_table(root: Path, split: str, share: float) -> Path:
    """Where the same pairs lie with thoughts that get a share of their dimensions wrong."""
    return root / "data" / split / f"thoughts-{share:.1f}.jsonl"
