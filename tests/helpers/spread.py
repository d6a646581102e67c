"""What a run left behind, and whether two of them are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.finished_runs import exported_weights, logged_values

USUAL = {"stage1": "qwen2_5_vl", "stage2": "qwen3_vl"}
"""Family by stage, where a test does not choose."""
LORA = (
    "--model.optimization.lora.parts",
    "[language]",
    "--model.optimization.lora.rank",
    "4",
    "--model.optimization.lora.alpha",
    "8",
)
WHOLE = (
    "--model.optimization.lora.parts",
    "[]",
    "--model.optimization.learning_rates",
    "{language: 1.0e-4, merger: 1.0e-4, query: 1.0e-3, head: 1.0e-3}",
)
HALF = (
    "--model.optimization.lora.parts",
    "[]",
    "--model.optimization.learning_rates",
    "{language: 1.0e-6, query: 1.0e-6, head: 1.0e-6}",
)
HALF += ("--trainer.max_steps", "4", "--trainer.limit_val_batches", "0", "--trainer.precision", "bf16-mixed")

Fit = Callable[..., Path]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return exported_weights(run / "export/last")


def furthest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def check_same(one: Path, two: Path) -> None:
    """Losses and rewards of two runs are within 1e-5, norms of gradients within 1e-4 of them, weights within 1e-5."""
    ours, theirs = logged_values(one), logged_values(two)
    compared = [tag for tag in ours if tag.startswith(("train/", "val/", "rollout/", "grad/")) and "second" not in tag]
    compared = [tag for tag in compared if tag != "train/wait_share"]
    assert {"train/loss", "val/reward_mean", "grad/head"} <= set(compared)
    assert sum(len(ours[tag]) for tag in compared) > 100
    for tag in compared:
        within = 1e-4 if tag.startswith("grad/") else 1e-5
        assert theirs[tag] == pytest.approx(ours[tag], abs=1e-5, rel=within), tag
    assert furthest(weights(one), weights(two)) < 1e-5
    assert ours["train/loss"][0] != pytest.approx(ours["train/loss"][-1], abs=1e-3)


def check_half(start: Path, one: Path, two: Path) -> None:
    """Losses of two runs of `HALF` are near each other, and so small steps counted: weights stayed float32."""
    ours, theirs = logged_values(one)["train/loss"], logged_values(two)["train/loss"]
    assert theirs == pytest.approx(ours, rel=0.01)
    assert theirs != ours
    before, after = exported_weights(start), weights(two)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    layers = [name for name in after if ".layers." in name]
    moved = [float((before[name] != after[name]).float().mean()) for name in layers]
    assert len(layers) > 10
    assert min(moved) > 0.9
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=5e-6) for name in layers)
