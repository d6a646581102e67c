"""A process that makes no progress ends by itself and shows where it stood; one that does is left alone."""

import faulthandler
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.watchdog import Watchdog

SECONDS = 0.3


def stand_still() -> None:
    time.sleep(60)


def run_and_stand_still(errors: Path) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    Watchdog(SECONDS / 60).on_train_start(None, None)
    stand_still()


def test_a_process_that_stands_still_ends_and_shows_where(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=run_and_stand_still, args=(tmp_path / "errors",))
    process.start()
    process.join(30)
    assert process.exitcode == 1
    assert "Timeout (0:00:00.300000)!" in (tmp_path / "errors").read_text()
    assert "in stand_still" in (tmp_path / "errors").read_text()


def test_every_step_restarts_the_clock_and_the_end_of_the_run_stops_it(tmp_path, monkeypatch):
    """Two steps, one validation batch and a checkpoint: each batch at its start and its end."""
    told = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: told.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: told.append(None))
    switches = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger", "enable_checkpointing"), False)
    run = Trainer(
        accelerator="cpu",
        callbacks=[Watchdog(minutes=2)],
        max_steps=2,
        limit_val_batches=1,
        val_check_interval=2,
        num_sanity_val_steps=0,
        **switches,
    )
    run.fit(BoringModel())
    run.save_checkpoint(tmp_path / "one.ckpt")
    assert told.count(120) == 1 + 2 * 2 + 2 + 1
    assert told[-2:] == [None, 120]
    assert set(told) == {120, None}


def test_no_time_at_all_is_refused():
    with pytest.raises(ValueError, match="above 0, got 0"):
        Watchdog(minutes=0)
