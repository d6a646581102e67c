"""Makes the model `demo`, which ships with the package, from a run of stage 2 on the embedded default.

    python -m pretraining.demo runs/stage2

Both stages train the language model through LoRA, each on what came before. What both have changed is of low rank, so
it fits into one adapter on the tiny backbone.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data_modules.world.rendering import RenderSettings, render_split
from descore.demo.shipped import FOLDER, MODEL, TABLE, VIDEOS, demo_videos
from descore.inputs.backbone import TINY
from descore.inputs.processor import Processor
from descore.model.export import describe, save
from descore.model.merging import query_rows
from descore.model.reward_model import RewardModel
from descore.model.trainable import make_trainable
from descore.scoring.scorer import Scorer
from descore.tables.pairs import read_pairs
from descore.types import Pair

RANK = 32
"""Rank of the adapter: that of both stages together."""

TOLERANCE = 1e-3
"""Share of a layer's change that the adapter may miss."""

REWARD_TOLERANCE = 1e-3
"""Most that a reward may differ from that of the run; the adapter is rounded to float16."""

NUM_PAIRS, NUM_RENDERED, MARGIN = 3, 200, 1.0
"""Pairs that ship, pairs that they are chosen from, and the least difference of their overall scores."""


def write_demo(run: str, folder: Path = FOLDER) -> Table:
    """Write the adapter and its videos, once the adapter scores the videos as the run does.

    Args:
        run: Run of stage 2, or its export.
        folder: Folder to write.

    Returns:
        The rewards of the adapter, and those of the run.

    Raises:
        ValueError: If what the run has learnt does not fit into an adapter on the tiny backbone, or a reward differs.
    """
    model = as_adapter(RewardModel.from_pretrained(run))
    for name, parameter in model.network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float16)
    with tempfile.TemporaryDirectory() as name:
        draft = Path(name)
        save(model, draft / MODEL, weights="adapter", calibration=describe(run).calibration)
        write_videos(draft)
        table = compare(draft, run)
        for part in (MODEL, VIDEOS):
            shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(draft, folder, dirs_exist_ok=True)
    return table


def compare(folder: Path, run: str) -> Table:
    """Score the videos of a demo with its adapter and with the run that it was made from.

    Raises:
        ValueError: If a thought or a reward differs, or a better video does not have the higher reward.
    """
    videos, prompts = demo_videos(folder)
    both = [Scorer(model).score(videos, prompts) for model in (str(folder / MODEL), run)]
    table = Table("video", "reward", "reward of the run")
    for video, shipped, trained in zip(videos, *both, strict=True):
        table.add_row(Path(video).name, f"{shipped.reward:.4f}", f"{trained.reward:.4f}")
        if shipped.thought != trained.thought or not abs(shipped.reward - trained.reward) < REWARD_TOLERANCE:
            raise ValueError(f"{video}: expected reward {trained.reward} and the thought of the run, got {shipped}")
    for video, better, worse in zip(videos[::2], both[0][::2], both[0][1::2], strict=True):
        if not better.reward > worse.reward:
            raise ValueError(f"{video}: its reward {better.reward} is not above {worse.reward}, that of a worse video")
    return table


def as_adapter(trained: RewardModel) -> RewardModel:
    """Make a model of the tiny backbone and an adapter that computes what a trained model computes.

    Raises:
        ValueError: If a weight changed that no adapter holds, or by more than the rank allows.
    """
    model = RewardModel.create(replace(trained.processor.settings, backbone=TINY))
    before = {name: tensor.clone() for name, tensor in model.base.state_dict().items()}
    after = trained.base.state_dict()
    make_trainable(model, ["language", "query", "head"], lora_parts=["language"], lora_rank=RANK, lora_alpha=RANK)
    layers = {f"{name}.weight": module for name, module in model.base.named_modules() if hasattr(module, "lora_A")}
    with torch.no_grad():
        for name, module in layers.items():
            factors = factor(after[name] - before[name], RANK)
            for part, value in zip((module.lora_A, module.lora_B), factors, strict=True):
                part["default"].weight.copy_(value)
        query_rows(model).copy_(query_rows(trained))
        model.head.load_state_dict(trained.head.state_dict())
    _check_unchanged(model.processor, before, after, set(layers))
    return model.eval()


def factor(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factor a change of weights `[out, in]` into `[rank, in]` and `[out, rank]`, whose product it is.

    Raises:
        ValueError: If its rank is higher.

    >>> first, second = factor(torch.ones(3, 2), rank=1)
    >>> (second @ first).round(decimals=4).tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    left, singular, right = torch.linalg.svd(change, full_matrices=False)
    root = singular[:rank].sqrt()
    first, second = root[:, None] * right[:rank], left[:, :rank] * root
    if (missed := singular[rank:].norm() / singular.norm().clamp(min=1e-12)) > TOLERANCE:
        raise ValueError(f"an adapter of rank {rank} misses {missed:.2%} of a change; train both stages through LoRA")
    return first, second


def _check_unchanged(processor: Processor, before: Any, after: Any, adapted: set[str]) -> None:
    for name, tensor in before.items():
        rows = torch.ones(len(tensor), dtype=torch.bool)
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            rows[processor.query_ids] = False
        if name not in adapted and not torch.equal(tensor[rows], after[name][rows]):
            raise ValueError(f"{name} has changed, which no adapter holds; train the language model and the head alone")


def write_videos(folder: Path) -> None:
    """Render pairs, and keep those whose files are smallest of the clear ones, the better video first."""
    with tempfile.TemporaryDirectory() as name:
        pairs = read_pairs(render_split(Path(name), "val", NUM_RENDERED, RenderSettings(), seed=1)).pairs
        clear = sorted((pair for pair in pairs if abs(_margin(pair)) >= MARGIN), key=_num_bytes)[:NUM_PAIRS]
        rows = []
        for number, pair in enumerate(clear, start=1):
            best_first = sorted((pair.a, pair.b), key=lambda side: -side.mos[0])
            for word, side in zip(("better", "worse"), best_first, strict=True):
                rows.append((f"{VIDEOS}/{number}-{word}.mp4", pair.prompt))
                (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
                shutil.copy(side.video, folder / rows[-1][0])
    with (folder / TABLE).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("video", "prompt"), *rows])


def _margin(pair: Pair) -> float:
    return pair.a.mos[0] - pair.b.mos[0]


def _num_bytes(pair: Pair) -> int:
    return sum(Path(side.video).stat().st_size for side in (pair.a, pair.b))


def main() -> None:
    """Write the demo, and print what it scores beside what the run scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run of stage 2, or its export")
    Console().print(write_demo(parser.parse_args().run))


if __name__ == "__main__":
    main()
