"""A step that is not finite is skipped and kept; taken again, it gives what it gave, and shows where it went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from descore.cli import main as descore
from descore.model.reward_model import RewardModel
from descore.modules import rl
from descore.objectives.replay import replay
from descore.runtime.sharding import Whole
from tests.e2e import test_stage1, test_stage2
from tests.e2e.test_stage1 import rendered
from tests.e2e.test_stage2 import EVEN, start, table
from tests.helpers.commands import refused
from tests.helpers.finished_runs import logged_values

__all__ = ["rendered", "start", "table"]
QUIET = ("--trainer.limit_val_batches", "0")


def damage_gradient(monkeypatch: pytest.MonkeyPatch, of_step: int) -> None:
    """One gradient of one step becomes nan, as a fault of a device would have it; the weights are fine."""
    calls = []

    def clip(self: Whole, limit: float) -> Tensor:
        calls.append(limit)
        if len(calls) == of_step:
            gradients = [parameter.grad for parameter in self.trained() if parameter.grad is not None]
            gradients[0].view(-1)[0] = math.nan
        return whole_clip(self, limit)

    whole_clip = Whole.clip
    monkeypatch.setattr(Whole, "clip", clip)


def test_a_skipped_step_of_stage1_is_kept_and_gives_its_loss_again(
    tmp_path: Path, rendered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of three steps, of a pair that is masked or not, in two micro-batches of one pair each."""
    damage_gradient(monkeypatch, of_step=2)
    options = (*QUIET, "--trainer.max_steps", "3", "--data.batch_size", "1", "--trainer.accumulate_grad_batches", "2")
    with pytest.warns(UserWarning, match=r"step 1 is skipped: its loss is .* norm nan; .* pairs train-\d+, train-\d+$"):
        run = test_stage1.fit(tmp_path, rendered, *options)
    assert [*(run / "skipped").iterdir()] == [run / "skipped/step-1"]
    found = [*replay(run / "skipped/step-1", torch.device("cpu"))]
    kept = json.loads((run / "skipped/step-1/rank-0.json").read_text())
    assert [one.pair for one in found] == [pair["id"] for pair in kept["pairs"]]
    assert len(found) == 2
    assert found[1].loss == pytest.approx(logged_values(run)["train/loss"][1], rel=1e-4)
    assert all(one.gradient_norm > 0 and not one.reason for one in found)
    capsys.readouterr()
    assert descore(["replay", str(run / "skipped/step-1"), "--device", "cpu"]) == 0
    assert found[0].pair[:8] in capsys.readouterr().out


def test_a_skipped_step_of_stage2_is_kept_and_gives_its_loss_again(
    tmp_path: Path, start: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second mini-batch: its thoughts are older than its weights, and the reference is not the policy any more."""
    damage_gradient(monkeypatch, of_step=2)
    options = (
        *EVEN,
        *QUIET,
        "--trainer.max_steps",
        "2",
        "--data.batch_size",
        "2",
        "--model.batching.mini_batch_pairs",
        "1",
    )
    options += ("--model.weights.kl", "0.5", "--model.weights.calibration", "0.5", "--model.optimization.warmup", "0")
    alone = []
    update = rl.RLModule._step

    def listen(self: rl.RLModule, loss: Tensor, describe: Callable[[], object]) -> None:
        alone.append(float(loss))
        update(self, loss, describe)

    monkeypatch.setattr(rl.RLModule, "_step", listen)
    test_stage2.main(test_stage2.arguments(tmp_path, start, table, *options))
    folder = tmp_path / "stage2/version_0/skipped/step-1"
    (found,) = replay(folder, torch.device("cpu"))
    assert found.loss == pytest.approx(alone[1], rel=1e-4)
    assert found.loss != pytest.approx(alone[0], rel=1e-2)
    assert not found.reason


def test_a_step_that_overflows_names_the_module(
    tmp_path: Path, start: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of 3e38 in the head: rewards are infinite."""
    loud = tmp_path / "loud"
    model = RewardModel.from_pretrained(str(start))
    model.head.weight.data = model.head.weight.data.sign() * 3e38
    model.save_pretrained(str(loud))
    options = (*EVEN, *QUIET, "--trainer.max_steps", "9", "--model.optimization.max_skipped", "2")
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        test_stage2.main(test_stage2.arguments(tmp_path, loud, table, *options))
    (folder,) = (tmp_path / "stage2/version_0/skipped").iterdir()
    capsys.readouterr()
    assert descore(["replay", str(folder), "--device", "cpu"]) == 1
    assert "head" in capsys.readouterr().out


def test_a_folder_without_a_step_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, r"expected a kept step such as .*skipped/step-12, found no rank-0.json", "replay", tmp_path)
