"""What exported models reach on held-out rendered pairs: preference accuracy, and how good their thoughts are.

    python -m benchmarks.accuracy before=runs/stage1/version_0/export/last after=runs/stage2/version_0/export/last

Several folders of one NAME, separated by commas, are seeds: the table shows their mean, and each of them. Every model
sees the same pairs, so `--against NAME` compares pair by pair. Intervals are 95 %, over pairs or videos.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from data_modules.rendering import RenderSettings, render_split
from data_modules.teacher import Teacher
from data_modules.world import Split
from descore.model import RewardModel
from descore.pairs import read_pairs
from descore.rewards import quality_reward
from descore.sampling import Sampling
from descore.think import think
from descore.types import Frames, Group, Pair, Prefix, Side, Thought

BATCH = 32
SPLITS: dict[Split, str] = {"val": "in-domain", "ood": "out-of-domain"}
MEASURES = (
    "accuracy, own thoughts",
    "accuracy, exact thoughts",
    "accuracy, teacher's thoughts",
    "accuracy, no thought",
    "quality, most probable thought",
    "quality, sampled thought",
)


@dataclass(frozen=True)
class Case:
    """A held-out pair: with exact thoughts, with those of the default teacher, and the frames of both videos."""

    exact: Pair
    taught: Pair
    frames: tuple[Frames, Frames]


def read(model: RewardModel, root: Path, split: Split, num_pairs: int) -> list[Case]:
    """Render a split where it is not there, and decode it as the model reads it."""
    exact, taught = (
        read_pairs(render_split(root, split, num_pairs, RenderSettings(teacher=teacher), seed=0)).pairs
        for teacher in (Teacher(habits={}), Teacher())
    )
    pairs = track(list(zip(exact, taught, strict=True)), f"Reading {split}", console=Console(stderr=True))
    return [Case(one, other, (_read(model, one.a), _read(model, one.b))) for one, other in pairs]


def _read(model: RewardModel, side: Side) -> Frames:
    return model.features.read(side.video)


def measure(model: RewardModel, cases: Sequence[Case]) -> dict[str, Tensor]:
    """Return each of `MEASURES` as one value per decided pair (1 right, 0 wrong) or per video."""
    starts = track(range(0, len(cases), BATCH), "Scoring", console=Console(stderr=True))
    found = [_measure_batch(model, cases[start : start + BATCH]) for start in starts]
    return {name: torch.cat([values[name] for values in found]) for name in MEASURES}


@torch.no_grad()
def _measure_batch(model: RewardModel, cases: Sequence[Case]) -> dict[str, Tensor]:
    features = model.features
    sides = [(case.exact.prompt, case.exact.a, case.taught.a, case.frames[0]) for case in cases]
    sides += [(case.exact.prompt, case.exact.b, case.taught.b, case.frames[1]) for case in cases]
    prefixes: list[Prefix] = [features.prefix(prompt, frames) for prompt, _, _, frames in sides]
    thoughts = [
        [features.thought(exact.thought), features.thought(taught.thought), Thought()] for _, exact, taught, _ in sides
    ]
    packed = features.pack(prefixes, thoughts)
    seen = model.see(packed)
    given = model(packed, seen=seen).rewards.view(len(sides), 3)
    names = [exact.video for _, exact, _, _ in sides]
    greedy = think(model, packed, names=names, seen=seen)
    sampled = think(model, packed, Sampling(temperature=1.0), names=names, seen=seen)
    rewards = torch.cat([torch.cat([group.rewards for group in greedy]), given], dim=1)
    preference = torch.tensor([case.exact.preference[0] for case in cases])
    margins = (rewards[: len(cases)] - rewards[len(cases) :]) * preference[:, None]
    right = (margins > 0).float()[preference != 0]
    qualities = [_qualities(groups, [exact for _, exact, _, _ in sides]) for groups in (greedy, sampled)]
    return dict(zip(MEASURES, [*right.unbind(1), *qualities], strict=True))


def _qualities(groups: Sequence[Group], sides: Sequence[Side]) -> Tensor:
    return torch.tensor([quality_reward(g.texts[0], side.scores) for g, side in zip(groups, sides, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER[,FOLDER...]", help="exported folders")
    parser.add_argument("--against", metavar="NAME", help="compare every other model with this one")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="splits to measure")
    parser.add_argument("--pairs", type=int, default=600, help="pairs per split (default 600)")
    parser.add_argument("--root", type=Path, default=Path("runs/held_out"), help="where pairs are rendered")
    options = parser.parse_args()
    models = {name: folders.split(",") for name, folders in (entry.split("=", 1) for entry in options.models)}
    if options.against and options.against not in models:
        parser.error(f"--against expects one of {', '.join(models)}, got {options.against}")
    columns = [*models, *(f"{name} - {options.against}" for name in models if options.against not in (None, name))]
    print(f"| split | measure | n | {' | '.join(columns)} |\n|{'---|' * (3 + len(columns))}", flush=True)
    for split in options.splits:
        found = _measure_all(models, options.root, split, options.pairs)
        for name in MEASURES:
            values = {model: seeds[name] for model, seeds in found.items()}
            cells = [_cell(seeds) for seeds in values.values()]
            if options.against:
                base = values.pop(options.against).mean(0)
                cells += [_difference(seeds.mean(0) - base) for seeds in values.values()]
            num = next(iter(found.values()))[name].shape[1]
            print(f"| {SPLITS[split]} | {name} | {num} | {' | '.join(cells)} |", flush=True)


def _measure_all(
    models: dict[str, list[str]], root: Path, split: Split, num_pairs: int
) -> dict[str, dict[str, Tensor]]:
    """Measure every seed of every model: by model and measure, [seeds, n]."""
    cases: list[Case] = []
    found = {}
    for name, folders in models.items():
        seeds = []
        for folder in folders:
            print(f"{name}: {folder}", file=sys.stderr)
            model = RewardModel.from_pretrained(folder)
            cases = cases or read(model, root, split, num_pairs)
            seeds.append(measure(model, cases))
        found[name] = {measured: torch.stack([seed[measured] for seed in seeds]) for measured in MEASURES}
    return found


def _cell(seeds: Tensor) -> str:
    """Mean over seeds `[S, n]` with the interval over the n, and the mean of each seed when there are several."""
    each = f"; {', '.join(f'{mean:.3f}' for mean in seeds.mean(1).tolist())}" if len(seeds) > 1 else ""
    mean, half = _interval(seeds.mean(0))
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f}){each}"


def _difference(values: Tensor) -> str:
    mean, half = _interval(values)
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def _interval(values: Tensor) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    return float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5


if __name__ == "__main__":
    main()
