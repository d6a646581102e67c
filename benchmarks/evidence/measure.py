"""What is measured of one trained model: evaluations, thoughts it is given, what its query token looks at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.data import CORRUPTED, SPLITS, pairs_table, thoughts_table
from benchmarks.evidence.given_thoughts import BATCH, given_margins, packed
from descore.evaluation.benchmark import Benchmark, table_benchmark
from descore.evaluation.folder import load_evaluation
from descore.evaluation.query_attention import query_attention
from descore.evaluation.run import EvaluationProtocol, evaluate
from descore.model.reward_model import RewardModel
from descore.tables.pairs import read_pairs

NUM_ATTENDED = 60  # pairs whose attention is looked at

SEVERAL = "ood-several"
"""Evaluation with several thoughts a video."""

READ_BY = {"coupled": "expected_score", "coupled_grpo": "expected_score"}
"""What is recorded beside the overall score, which every record of a thought has."""

HEADS = ("decoupled", "decoupled_rl")
"""Paradigms whose heads score the thoughts of others."""

WRITERS = ("coupled", "coupled_grpo", "decoupled", "decoupled_rl", "unmasked", "uncalibrated")
"""Paradigms that write thoughts."""


def measure(root: str, run: str, paradigm: str, num_thoughts: str, num_pairs: str, extent: str) -> None:
    """Measure a trained model.

    Args:
        root: Folder of the evidence.
        run: Name of the run.
        paradigm: What it is.
        num_thoughts: Thoughts at test time, more than 1 to find out what they buy.
        num_pairs: Out-of-domain pairs that are scored with so many.
        extent: "accuracy" for nothing else.
    """
    folder = Path(root)
    model = str(folder / "training" / run / "version_0" / "export" / "last")
    for split in SPLITS:
        evaluate(
            model,
            _benchmark(folder, split),
            evaluation_of(folder, run, split),
            protocol=EvaluationProtocol(reward_from=READ_BY.get(paradigm), batch_size=BATCH),
        )
    if int(num_thoughts) > 1:
        several = evaluation_of(folder, run, SEVERAL)
        evaluate(
            model,
            _benchmark(folder, "ood"),
            several,
            protocol=EvaluationProtocol(num_thoughts=int(num_thoughts), batch_size=BATCH // 4),
            limit=int(num_pairs),
        )
    if extent == "accuracy" or paradigm not in ("decoupled", "decoupled_rl", "unmasked", "uncalibrated"):
        return
    loaded = RewardModel.from_pretrained(model)
    found = {split: {"given": _given(loaded, folder, split)} for split in SPLITS}
    found["ood"]["attention"] = _attention(loaded, folder, "ood")
    _write(folder / "measured" / f"{run}.json", found)


def swap(root: str, seed: str) -> None:
    """Let the heads of a seed score the thoughts that its other models wrote."""
    folder = Path(root)
    found: dict[str, Any] = {}
    for head in HEADS:
        model = RewardModel.from_pretrained(str(folder / "training" / f"{head}-{seed}" / "version_0/export/last"))
        for split in SPLITS:
            written = [_written(folder, f"{writer}-{seed}", split) for writer in WRITERS]
            pairs = read_pairs(pairs_table(folder, split)).pairs
            texts = [[table[video] for table in written] for pair in pairs for video in (pair.a.video, pair.b.video)]
            margins = given_margins(model, pairs, texts)
            found.setdefault(head, {})[split] = dict(zip(WRITERS, margins.T.tolist(), strict=True))
    _write(folder / "measured" / f"swap-{seed}.json", found)


def evaluation_of(root: Path, run: str, split: str) -> Path:
    """Where the evaluation of a run on a split lies."""
    return root / "evaluations" / run / split


def _benchmark(root: Path, split: str) -> Benchmark:
    return table_benchmark(pairs_table(root, split))


def _written(root: Path, run: str, split: str) -> dict[str, str]:
    """Thoughts that a model wrote, by video."""
    evaluation = load_evaluation(evaluation_of(root, run, split))
    folder = pairs_table(root, split).parent
    thoughts = zip(evaluation.videos, evaluation.scores, strict=True)
    return {str(folder / video["video"]): score["thought"] for video, score in thoughts}


def _given(model: RewardModel, root: Path, split: str) -> dict[str, Any]:
    """Margins of pairs with thoughts that are wrong to each share, with the teacher's, and without any."""
    tables = [read_pairs(thoughts_table(root, split, share)).pairs for share in CORRUPTED]
    pairs = read_pairs(pairs_table(root, split)).pairs
    names = [f"{share:.1f}" for share in CORRUPTED] + ["teacher", "none"]
    rows = list(zip(*tables, pairs, strict=True))
    texts = [[getattr(pair, side).thought for pair in row] + [""] for row in rows for side in ("a", "b")]
    margins = given_margins(model, pairs, texts)
    preference = [pair.preference[0] for pair in pairs]
    return {"preference": preference, "margins": dict(zip(names, margins.T.tolist(), strict=True))}


def _attention(model: RewardModel, root: Path, split: str) -> dict[str, Any]:
    """Mean attention of the query token by layer and source, with an exact thought and without."""
    pairs = read_pairs(thoughts_table(root, split, 0.0)).pairs[:NUM_ATTENDED]
    texts = [[getattr(pair, side).thought, ""] for pair in pairs for side in ("a", "b")]
    shares = torch.cat([query_attention(model, branches) for branches in packed(model, pairs, texts)])
    layers = shares.view(-1, 2, *shares.shape[1:]).mean(0)
    return {"thought": layers[0].tolist(), "none": layers[1].tolist()}


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(found))
    draft.replace(path)
