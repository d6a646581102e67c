"""Which steps are skipped, which of them are kept, and when a run gives up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from descore.modules.skipping import MAX_KEPT, Skipping
from descore.objectives.kept_step import KeptStep
from descore.types import Pair, Side
from tests.helpers.training import stub_trainer

PAIRS = (Pair("p0", "a circle", Side("a"), Side("b"), (1.0,)),)


def skip(skipping: Skipping, folder: Path, *, loss: float = 0.0, norm: float = math.nan, step: int = 0) -> bool:
    trainer = stub_trainer(log_dir=str(folder), global_step=step)
    kept = KeptStep("cold_start", step, "32-true", {}, {}, PAIRS, ())
    return skipping(trainer, torch.tensor(loss), torch.tensor(norm), lambda: None, lambda: kept)


def kept_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("skipped/*"))


@pytest.mark.filterwarnings("ignore:.*step")
class TestSkipping:
    @pytest.mark.parametrize(
        ("loss", "norm", "skipped"),
        [(1.0, 1.0, False), (math.nan, 1.0, True), (math.inf, 1.0, True), (1.0, math.nan, True), (1.0, math.inf, True)],
    )
    def test_loss_and_norm_have_to_be_finite(self, tmp_path, loss, norm, skipped):
        assert skip(Skipping(10), tmp_path, loss=loss, norm=norm) is skipped

    def test_a_run_may_skip_as_many_in_a_row_as_were_allowed(self, tmp_path):
        skipping = Skipping(2)
        for step, norm in enumerate([math.nan, math.nan, 1.0, math.nan, math.nan]):
            skip(skipping, tmp_path, norm=norm, step=step)
        assert skipping.num_in_a_row == 2
        with pytest.raises(FloatingPointError, match="3 steps in a row"):
            skip(skipping, tmp_path, step=5)

    def test_the_first_of_a_row_is_kept_and_no_more_than_a_few(self, tmp_path):
        skipping = Skipping(10)
        for step in range(4 * MAX_KEPT):
            skip(skipping, tmp_path, norm=math.nan if step % 3 else 1.0, step=step)
        assert kept_in(tmp_path) == ["step-1", "step-4", "step-7"]
        assert KeptStep.read(tmp_path / "skipped/step-4/rank-0.json").pairs == PAIRS
