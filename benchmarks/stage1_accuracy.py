"""Held-out preference accuracy of exported models: with the exact thought, the teacher's, none, and their own.

    python benchmarks/stage1_accuracy.py default=runs/stage1/version_0/export/last

All thoughts about a video are branches of one prefix, so each video is read once. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from data_modules.pairs import read_pairs
from data_modules.rendering import RenderSettings, render_split
from data_modules.teacher import Teacher
from descore.metrics import interval, preference_accuracy
from descore.model import RewardModel
from descore.think import think
from descore.types import Pair, Thought

BATCH = 32
THOUGHTS = ("exact", "teacher's", "none", "own")


def read(root: Path, split: str, num_pairs: int) -> list[tuple[Pair, Pair]]:
    """Render a split and return each pair twice: with exact thoughts, and with those of the default teacher."""
    both = []
    for teacher in (Teacher(habits={}), Teacher()):
        table = render_split(root, split, num_pairs, RenderSettings(teacher=teacher), seed=0)  # type: ignore[arg-type]
        both.append(read_pairs(table).pairs)
    return list(zip(*both, strict=True))


@torch.no_grad()
def margins(model: RewardModel, pairs: list[tuple[Pair, Pair]]) -> Tensor:
    """Return the reward of A minus that of B under each of `THOUGHTS`, [4, N]."""
    return torch.cat([_batch_margins(model, pairs[start : start + BATCH]) for start in _starts(pairs)], dim=1)


def _starts(pairs: list[tuple[Pair, Pair]]) -> Iterator[int]:
    yield from track(range(0, len(pairs), BATCH), "Scoring", console=Console(stderr=True))


def _batch_margins(model: RewardModel, pairs: list[tuple[Pair, Pair]]) -> Tensor:
    features = model.features
    sides = [(exact.prompt, exact.a, taught.a) for exact, taught in pairs]
    sides += [(exact.prompt, exact.b, taught.b) for exact, taught in pairs]
    prefixes = [features.prefix(prompt, features.read(side.video)) for prompt, side, _ in sides]
    branches = [
        [features.thought(exact.thought), features.thought(taught.thought), Thought()] for _, exact, taught in sides
    ]
    packed = features.pack(prefixes, branches)
    given = model(packed).rewards.view(len(sides), 3)
    own = torch.cat([group.rewards for group in think(model, packed)])
    reward_a, reward_b = torch.cat([given, own], dim=1).T.chunk(2, dim=1)
    return reward_a - reward_b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER", help="exported folders")
    parser.add_argument("--pairs", type=int, default=600, help="pairs per split (default 600)")
    parser.add_argument("--root", type=Path, default=Path("runs/rendered"), help="where the rendered pairs are")
    options = parser.parse_args()
    print("| model | thought | in-domain | out-of-domain |\n|---|---|---|---|")
    splits = [read(options.root, split, options.pairs) for split in ("val", "ood")]
    for name, folder in (entry.split("=", 1) for entry in options.models):
        model = RewardModel.from_pretrained(folder)
        found = [margins(model, pairs) for pairs in splits]
        for row, thought in enumerate(THOUGHTS):
            cells = [_cell(margin[row], pairs) for margin, pairs in zip(found, splits, strict=True)]
            print(f"| {name} | {thought} | {' | '.join(cells)} |", flush=True)


def _cell(margin: Tensor, pairs: list[tuple[Pair, Pair]]) -> str:
    result = preference_accuracy(margin, [pair.preference[0] for pair, _ in pairs])
    low, high = interval(result.without_ties, result.num_decided)
    return f"{result.without_ties:.3f} ({low:.3f} to {high:.3f}), n = {result.num_decided}"


if __name__ == "__main__":
    main()
