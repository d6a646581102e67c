"""The pairs of the evidence, rendered once, with tables of fewer pairs and of thoughts with a known share of errors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from omegaconf import OmegaConf

from data_modules.world.labels import Labels
from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.scene import Split
from data_modules.world.teacher import Teacher
from descore.evaluation.benchmark import table_benchmark
from descore.evaluation.rejection import right_thoughts
from descore.evaluation.run import evaluate
from descore.inputs.typed_json import typed
from descore.model.finished import find_export
from descore.scoring.protocol import ScoringProtocol
from descore.tables.pairs import read_pairs
from descore.tables.writer import write_pairs

SPLITS: dict[Split, str] = {"val": "in-domain", "ood": "out-of-domain", "far": "far"}
"""Held-out splits and their names; docs/data.md says what each holds."""

GIVEN_SPLITS: dict[Split, str] = {split: SPLITS[split] for split in ("val", "ood")}
"""Held-out splits on which heads read given thoughts, and models of fewer pairs are measured."""

CORRUPTED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of wrong dimensions in a thought, from none to all."""

RENDERED_EACH = 1.5
"""Rendered pairs for each one that is wanted; about every eighth one is a tie."""


def prepare(
    root: Path, num_train: int, smaller: tuple[int, ...], num_held_out: int, others: Iterable[Labels] = ()
) -> None:
    """Render what is missing, and write tables of the pairs of which one video is better.

    Args:
        root: Folder of the evidence; its data are in `data`.
        num_train: Number of training pairs.
        smaller: Smaller numbers of training pairs; each gets a table of the first ones.
        num_held_out: Number of pairs of each held-out split.
        others: Other labels of the training pairs and of the first held-out split.
    """
    for size in (num_train, *smaller):
        _write(root, "train", num_train, Teacher(), train_table(root, size), size)
    for split in SPLITS:
        _write(root, split, num_held_out, Teacher(), pairs_table(root, split), num_held_out)
    for split in GIVEN_SPLITS:
        for share in CORRUPTED:
            teacher = Teacher(habits={}, corrupt=share)
            _write(root, split, num_held_out, teacher, thoughts_table(root, split, share), num_held_out)
    for labels in others:
        for table in (train_table(root, num_train), pairs_table(root, "val")):
            pairs = read_pairs(table, check_videos=False).pairs
            write_pairs(labelled(table, labels), map(labels, pairs), dimensions=labels.dimensions)


def _write(root: Path, split: Split, wanted: int, teacher: Teacher, path: Path, size: int) -> None:
    """Write a table of the first decided pairs of a split."""
    settings = RenderSettings(teacher=teacher)
    table = render_split(root / "data", split, math.ceil(RENDERED_EACH * wanted), settings, seed=0)
    decided = [pair for pair in read_pairs(table, check_videos=False).pairs if pair.preference[0]]
    if len(decided) < wanted:
        raise ValueError(f"{table}: expected at least {wanted} pairs without ties, got {len(decided)}")
    write_pairs(path, decided[:size])


def labels_of(config: str) -> Labels:
    """Labels that a configuration on the rendered world reads."""
    given = OmegaConf.select(OmegaConf.load(config), "data.init_args.render.labels")
    return Labels() if given is None else typed(Labels, OmegaConf.to_container(given), config)


def labelled(table: Path, labels: Labels) -> Path:
    """Table of the same pairs with other labels."""
    if labels == Labels():
        return table
    verdict = () if labels.choice is None else (re.sub(r"\W+", "_", labels.choice.first),)
    return table.with_name(f"{table.stem}-{'-'.join((*labels.dimensions, labels.answer, *verdict))}.jsonl")


def write_right(run: str, table: str, output: str) -> None:
    """Write the pairs about which a trained model is right in one of its own thoughts, with the first such thoughts."""
    protocol, folder = ScoringProtocol(num_thoughts=4), Path(output).with_suffix("")
    evaluation = evaluate(str(find_export(run)), table_benchmark(table), folder, protocol=protocol)
    write_pairs(output, (pair for pair in right_thoughts(evaluation) if any(pair.thoughts)))


def train_table(root: Path, size: int) -> Path:
    """Table of the first training pairs."""
    return root / "data" / "train" / f"decided-{size}.jsonl"


def pairs_table(root: Path, split: str) -> Path:
    """Table of a held-out split with the thoughts of the teacher of the training."""
    return root / "data" / split / "decided.jsonl"


def thoughts_table(root: Path, split: str, share: float) -> Path:
    """Table of the same pairs with thoughts that have a share of wrong dimensions."""
    return root / "data" / split / f"thoughts-{share:.1f}.jsonl"
