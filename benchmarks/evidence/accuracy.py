"""Preference accuracy and thought quality of exported models on held-out rendered pairs.

    python -m benchmarks.evidence.accuracy before=runs/stage1 after=FOLDER

Several folders of one NAME, separated by commas, are seeds: the table shows their mean and each of them. All models see
the same pairs, so `--against NAME` compares pair by pair. Intervals are 95 % bootstrap intervals over pairs or videos.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.evidence.data import SPLITS
from benchmarks.evidence.measure import BATCH_TOKENS, given_margins
from benchmarks.evidence.results import summarise
from benchmarks.evidence.words import difference, seeds, with_interval
from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.scene import Split
from data_modules.world.teacher import Teacher
from descore.evaluation.benchmark import Benchmark, table_benchmark
from descore.evaluation.folder import Evaluation
from descore.evaluation.run import evaluate
from descore.metrics import calls
from descore.model.reward_model import RewardModel
from descore.rewards import quality_reward
from descore.scoring.protocol import ScoringProtocol
from descore.tables.pairs import read_pairs
from descore.types import Pair

GIVEN = ("accuracy, exact thoughts", "accuracy, teacher's thoughts", "accuracy, no thought")


def measure(folder: str, benchmark: Benchmark, exact: Sequence[Pair]) -> dict[str, Tensor]:
    """Measure an exported model: one value for each decided pair (1 right, 0 wrong), or for each video.

    Args:
        folder: The exported folder.
        benchmark: Pairs with the teacher's thoughts.
        exact: The same pairs with exact thoughts.
    """
    with tempfile.TemporaryDirectory() as name:
        greedy, sampled = (
            evaluate(
                folder,
                benchmark,
                Path(name) / f"temperature-{temperature:g}",
                protocol=ScoringProtocol(temperature=temperature, max_batch_tokens=BATCH_TOKENS),
            )
            for temperature in (0.0, 1.0)
        )
    both = zip(exact, read_pairs(benchmark.table).pairs, strict=True)
    texts = [[getattr(pair, side).thought for pair in row] + [""] for row in both for side in ("a", "b")]
    given = given_margins(RewardModel.from_pretrained(folder), exact, texts)
    preferences = greedy.preferences("overall")
    return {
        "accuracy, own thoughts": _right(greedy.margins("overall"), preferences),
        **{name: _right(margins, preferences) for name, margins in zip(GIVEN, given.T, strict=True)},
        "quality, most probable thought": _qualities(greedy),
        "quality, sampled thought": _qualities(sampled),
    }


def _right(margins: Tensor, preferences: Tensor) -> Tensor:
    return calls(margins, preferences)[preferences != 0]


def _qualities(evaluation: Evaluation) -> Tensor:
    sides = [(pair[side], pair[f"scores_{side}"]) for pair in evaluation.pairs for side in "ab"]
    thoughts = [score["thought"] if score else "" for score in evaluation.scores]
    return torch.tensor([quality_reward(thoughts[video], scores) for video, scores in sides])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER[,FOLDER...]", help="exported folders")
    parser.add_argument("--against", metavar="NAME", help="model that every other model is compared with")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="splits to measure")
    parser.add_argument("--pairs", type=int, default=600, help="pairs per split (default 600)")
    parser.add_argument("--root", type=Path, default=Path("runs/accuracy"), help="folder of the rendered pairs")
    options = parser.parse_args()
    models = {name: folders.split(",") for name, folders in (entry.split("=", 1) for entry in options.models)}
    if options.against and options.against not in models:
        parser.error(f"--against expects one of {', '.join(models)}, got {options.against}")
    others = [name for name in models if options.against not in (None, name)]
    columns = ["split", "measure", "n", *models, *(f"{name} - {options.against}" for name in others)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for split in options.splits:
        for name, found in _measure_all(models, options.root, split, options.pairs).items():
            cells = [_cell(values) for values in found.values()]
            minus = [(found[other] - found[options.against]).mean(0, keepdim=True) for other in others]
            cells += [str(difference(summarise(values))) for values in minus]
            num = next(iter(found.values())).shape[1]
            print(f"| {SPLITS[split]} | {name} | {num} | {' | '.join(cells)} |", flush=True)


def _measure_all(
    models: dict[str, list[str]], root: Path, split: Split, num_pairs: int
) -> dict[str, dict[str, Tensor]]:
    """Measure every seed of every model: `[seeds, n]` by measure and model."""
    exact = read_pairs(render_split(root, split, num_pairs, RenderSettings(teacher=Teacher(habits={})), seed=0)).pairs
    benchmark = table_benchmark(render_split(root, split, num_pairs, RenderSettings(), seed=0))
    found: dict[str, dict[str, Tensor]] = {}
    for name, folders in models.items():
        print(f"{name}: {', '.join(folders)}", file=sys.stderr)
        measured = [measure(folder, benchmark, exact) for folder in folders]
        for kind in measured[0]:
            found.setdefault(kind, {})[name] = torch.stack([seed[kind] for seed in measured])
    return found


def _cell(values: Tensor) -> str:
    found = summarise(values)
    return f"{with_interval(found)}; {seeds(found)}" if len(values) > 1 else with_interval(found)


if __name__ == "__main__":
    main()
