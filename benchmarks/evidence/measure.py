"""What is measured of one trained model: evaluations, rewards of given thoughts, attention of the query token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.data import CORRUPTED, GIVEN_SPLITS, SPLITS, pairs_table, thoughts_table
from descore.evaluation.benchmark import table_benchmark
from descore.evaluation.folder import load_evaluation
from descore.evaluation.query_attention import query_attention
from descore.evaluation.run import evaluate
from descore.model.finished import find_export
from descore.model.reward_model import RewardModel
from descore.scoring.protocol import ScoringProtocol
from descore.tables.pairs import read_pairs
from descore.types import Branches, Pair

BATCH = 64
"""Videos that are scored together with given thoughts."""

BATCH_TOKENS = 36_000
"""Tokens that are scored together: those of 64 videos with one thought each."""

NUM_ATTENDED = 60
"""Pairs whose attention is measured."""

SEVERAL = "ood-several"
"""Name of the evaluation with several thoughts per video."""

REWARD_FROM = dict.fromkeys(("coupled", "coupled_grpo"), "expected_score")
"""Source of the reward, by paradigm; the overall score is recorded beside it."""

HEADS = ("decoupled", "decoupled_rl")
"""Paradigms whose heads score the thoughts of others."""

WRITERS = ("coupled", "coupled_grpo", "decoupled", "decoupled_rl", "unmasked", "uncalibrated")
"""Paradigms that write thoughts."""

GIVEN = ("decoupled", "unmasked", "decoupled_rl", "uncalibrated", "decoupled_longer", "decoupled_rl_longer")
"""Paradigms whose heads score given thoughts."""


def measure(root: str, run: str, paradigm: str, num_thoughts: str, num_pairs: str, extent: str) -> None:
    """Measure a trained model.

    Args:
        root: Folder of the evidence.
        run: Name of the run.
        paradigm: Paradigm of the run.
        num_thoughts: Thoughts per video of an additional evaluation; 1 for none.
        num_pairs: Out-of-domain pairs of that evaluation.
        extent: "accuracy" measures evaluations on val and ood only, "whole" everything.
    """
    folder = Path(root)
    model = str(find_export(folder / "training" / run))
    for split in SPLITS if extent == "whole" else GIVEN_SPLITS:
        evaluate(
            model,
            table_benchmark(pairs_table(folder, split)),
            evaluation_of(folder, run, split),
            protocol=ScoringProtocol(reward_from=REWARD_FROM.get(paradigm), max_batch_tokens=BATCH_TOKENS),
        )
    if int(num_thoughts) > 1:
        evaluate(
            model,
            table_benchmark(pairs_table(folder, "ood")),
            evaluation_of(folder, run, SEVERAL),
            protocol=ScoringProtocol(num_thoughts=int(num_thoughts), max_batch_tokens=BATCH_TOKENS),
            limit=int(num_pairs),
        )
    if extent == "accuracy" or paradigm not in GIVEN:
        return
    loaded = RewardModel.from_pretrained(model)
    found = {split: {"given": _given(loaded, folder, split)} for split in GIVEN_SPLITS}
    found["ood"]["attention"] = _attention(loaded, folder, "ood")
    _write(folder / "measured" / f"{run}.json", found)


def swap(root: str, seed: str) -> None:
    """Let the heads of a seed score the thoughts that its other models wrote."""
    folder = Path(root)
    found: dict[str, Any] = {}
    for head in HEADS:
        model = RewardModel.from_pretrained(str(find_export(folder / "training" / f"{head}-{seed}")))
        for split in GIVEN_SPLITS:
            written = [_written(folder, f"{writer}-{seed}", split) for writer in WRITERS]
            pairs = read_pairs(pairs_table(folder, split)).pairs
            texts = [[table[video] for table in written] for pair in pairs for video in (pair.a.video, pair.b.video)]
            margins = given_margins(model, pairs, texts)
            found.setdefault(head, {})[split] = dict(zip(WRITERS, margins.T.tolist(), strict=True))
    _write(folder / "measured" / f"swap-{seed}.json", found)


def evaluation_of(root: Path, run: str, split: str) -> Path:
    """Folder of the evaluation of a run on a split."""
    return root / "evaluations" / run / split


@torch.no_grad()
def given_margins(model: RewardModel, pairs: Sequence[Pair], texts: Sequence[Sequence[str]]) -> Tensor:
    """Score every video with each of the thoughts it is given.

    Args:
        model: A model with one reward.
        pairs: N pairs.
        texts: Thoughts of A, B, A, B and so on, equally many for every video; "" is none.

    Returns:
        Reward of A minus reward of B, `[N, thoughts]`.
    """
    rewards = torch.cat([model(branches).rewards[:, 0] for branches in _packed(model, pairs, texts)])
    by_video = rewards.view(len(pairs), 2, -1)
    return by_video[:, 0] - by_video[:, 1]


def _packed(model: RewardModel, pairs: Sequence[Pair], texts: Sequence[Sequence[str]]) -> Iterator[Branches]:
    """Pack the videos with their thoughts, `BATCH` videos at a time."""
    processor = model.processor
    videos = [(pair.prompt, side.video) for pair in pairs for side in (pair.a, pair.b)]
    for start in range(0, len(videos), BATCH):
        chosen = slice(start, start + BATCH)
        prefixes = [processor.prefix(prompt, processor.read(video)) for prompt, video in videos[chosen]]
        thoughts = [[processor.thought(text) for text in row] for row in texts[chosen]]
        yield processor.pack(prefixes, thoughts)


def _written(root: Path, run: str, split: str) -> dict[str, str]:
    """Thoughts that a model wrote, by video."""
    evaluation = load_evaluation(evaluation_of(root, run, split))
    folder = pairs_table(root, split).parent
    thoughts = zip(evaluation.videos, evaluation.scores, strict=True)
    return {str(folder / video["video"]): score["thought"] for video, score in thoughts}


def _given(model: RewardModel, root: Path, split: str) -> dict[str, Any]:
    """Margins of pairs with thoughts of each share of errors, with the teacher's, and without any."""
    tables = [read_pairs(thoughts_table(root, split, share)).pairs for share in CORRUPTED]
    pairs = read_pairs(pairs_table(root, split)).pairs
    names = [f"{share:.1f}" for share in CORRUPTED] + ["teacher", "none"]
    rows = list(zip(*tables, pairs, strict=True))
    texts = [[getattr(pair, side).thought for pair in row] + [""] for row in rows for side in ("a", "b")]
    margins = given_margins(model, pairs, texts)
    preference = [pair.preference[0] for pair in pairs]
    return {"preference": preference, "margins": dict(zip(names, margins.T.tolist(), strict=True))}


def _attention(model: RewardModel, root: Path, split: str) -> dict[str, Any]:
    """Mean attention of the query token by layer and source, with an exact thought and without one."""
    pairs = read_pairs(thoughts_table(root, split, 0.0)).pairs[:NUM_ATTENDED]
    texts = [[getattr(pair, side).thought, ""] for pair in pairs for side in ("a", "b")]
    packed = _packed(model, pairs, texts)
    shares = torch.stack([one.shares for branches in packed for one in query_attention(model, branches)])
    layers = shares.view(-1, 2, *shares.shape[1:]).mean(0)
    return {"thought": layers[0].tolist(), "none": layers[1].tolist()}


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
