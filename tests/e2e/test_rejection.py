"""A judge that thinks, end to end: cold start, rejection sampling, cold start on what was kept, GRPO, comparing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_modules.world.rendering import render_split
from descore import Scorer
from descore.cli import main as command
from descore.tables.pairs import read_pairs
from descore.tables.writer import write_pairs
from descore.train import main
from tests.helpers.finished_runs import logged_values

BASELINES = Path(__file__).parents[2] / "conf/baselines"
SHORT = tuple(f"<think>Expect:</think><answer>Video {place}</answer>" for place in (1, 2))
"""Thoughts that are learnt in a few steps: of a pair in which A is better, and, turned round, of one in which B is."""


def fit(config: str, name: str, table: Path, folder: Path, *more: str) -> Path:
    main([
        *("fit", "-c", str(BASELINES / config), "--trainer.accelerator", "cpu", "--trainer.logger.name", name),
        *("--trainer.logger.save_dir", str(folder), "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_model_summary", "false", "--trainer.check_val_every_n_epoch", "null"),
        *("--trainer.callbacks", json.dumps([{"class_path": "callbacks.export.ExportModel"}])),
        *("--data", "data_modules.preference.PreferencePairDataModule", "--data.num_workers", "0"),
        *("--data.train", str(table), "--data.val.val", str(table), "--data.batch_size", "4"),
        *("--data.max_val_pairs", "4", "--model.own_thought_pairs", "4", *more),
    ])
    return folder / name / "version_0"


@pytest.mark.slow
def test_a_judge_that_thinks(tmp_path: Path) -> None:
    given, kept = tmp_path / "train/given.jsonl", tmp_path / "train/kept.jsonl"
    found = read_pairs(render_split(tmp_path, "train", 10)).pairs
    decided = [pair for pair in found if pair.preference[0]][:6]
    write_pairs(given, [replace(pair, thoughts=SHORT if pair.preference[0] > 0 else SHORT[::-1]) for pair in decided])

    short = ["--trainer.max_epochs", "-1", "--model.optimization.schedule", "constant_with_warmup"]
    rates = ["--model.optimization.learning_rates.language", "0.002", "--model.max_thought_tokens", "32"]
    steps = ["--trainer.max_steps", "40", "--trainer.val_check_interval", "40"]
    cold = fit("unifiedreward_think.yaml", "cold", given, tmp_path, *short, *rates, *steps)
    logged = logged_values(cold)
    assert logged["train/loss"][-1] < 0.3 * logged["train/loss"][0]
    assert logged["val/well_formed"][-1] > 0

    how = ["--num-thoughts", "4", "--device", "cpu"]
    judged = str(tmp_path / "thoughts")
    assert command(["evaluate", "--model", str(cold), "--table", str(given), "--output", judged, *how]) == 0
    assert command(["reject", judged, "--output", str(kept)]) == 0
    pairs = read_pairs(kept).pairs
    for pair in pairs:
        right = SHORT if pair.preference[0] > 0 else SHORT[::-1]
        for thought, expected in zip(pair.thoughts, right, strict=True):
            assert not thought or thought.endswith(expected.partition("</think>")[2])

    backbone = ["--model.backbone", str(cold / "export/last/backbone")]
    steps = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    again = fit("unifiedreward_think.yaml", "again", kept, tmp_path, *short, *rates, *steps, *backbone)
    assert logged_values(again)["train/loss"][0] < 0.5 * logged["train/loss"][0], "it starts from what was learnt"

    options = ["--model.pretrained", str(again / "export/last"), "--model.sampling.num_thoughts", "4"]
    grpo = fit("unifiedreward_think_grpo.yaml", "grpo", given, tmp_path, *steps, *options)
    logged = logged_values(grpo)
    assert {"rollout/verdict", "rollout/format", "val/verdict_accuracy"} <= logged.keys()
    assert logged["rollout/format"][0] > 0
    (comparison,) = Scorer(str(grpo / "export/last"), device="cpu").compare(
        pairs[0].a.video, pairs[0].b.video, pairs[0].prompt
    )
    assert comparison.error is None, comparison.error
    assert comparison.orders[0].thoughts[0].startswith("<think>")
