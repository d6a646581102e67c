"""A run in which nothing moves any more ends by itself, and says where it stood."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.watchdog import Watchdog


class Hanging(BoringModel):
    """Hangs in its third step, or in its first validation, in a call that keeps the interpreter to itself."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.where == "training" and batch_idx == 2:
            hang()
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if self.where == "validation":
            hang()
        return super().validation_step(batch, batch_idx)


def hang() -> None:
    pow(3, 10**9)


def train(where: str) -> None:
    # Two seconds: more than a step of this model, and less than the power takes.
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[Watchdog(minutes=2 / 60)],
        max_steps=4,
        val_check_interval=4,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(Hanging(where))
    time.sleep(2.5)  # the clock has stopped
    print("done")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["training", "validation", "nowhere"])
def test_a_run_that_stands_still_ends_and_shows_where(where: str) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.test_standing_still", where],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert time.monotonic() - begun < 60
    if where == "nowhere":
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "done"), done.stderr[-2000:]
    else:
        assert done.returncode == 1
        assert "Timeout (0:00:02)!" in done.stderr
        assert f"in {where}_step" in done.stderr
        assert "in hang" in done.stderr


if __name__ == "__main__":
    train(sys.argv[1])
