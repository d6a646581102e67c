"""The pairs of the evidence, rendered once; tables of fewer pairs, and of thoughts that are wrong to a known share."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_modules.rendering import RenderSettings, render_split
from data_modules.teacher import Teacher
from data_modules.world import Split

SPLITS: dict[Split, str] = {"val": "in-domain", "ood": "out-of-domain"}
CORRUPTED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the dimensions that a thought gets wrong; the first one gets all right."""


def prepare(root: Path, num_train: int, smaller: tuple[int, ...], num_held_out: int) -> None:
    """Render what is not there yet.

    Args:
        root: Folder of the evidence; its data lie in `data`.
        num_train: Training pairs.
        smaller: Smaller numbers, each a table of the first pairs.
        num_held_out: Pairs of each of both held-out splits.
    """
    data = root / "data"
    train = render_split(data, "train", num_train, RenderSettings(), seed=0)
    lines = train.read_text().splitlines(keepends=True)
    for size in smaller:
        train.with_name(f"pairs-{size}.jsonl").write_text("".join(lines[:size]))
    for split in SPLITS:
        for share in CORRUPTED:
            settings = RenderSettings(teacher=Teacher(habits={}, corrupt=share))
            written = render_split(data, split, num_held_out, settings, seed=0)
            shutil.copyfile(written, thoughts_table(root, split, share))
        render_split(data, split, num_held_out, RenderSettings(), seed=0)


def pairs_table(root: Path, split: str) -> Path:
    """Where the pairs of a split lie, with the thoughts of the teacher of the training."""
    return root / "data" / split / "pairs.jsonl"


def thoughts_table(root: Path, split: str, share: float) -> Path:
    """Where the same pairs lie with thoughts that get a share of their dimensions wrong."""
    return root / "data" / split / f"thoughts-{share:.1f}.jsonl"
