"""When `last.ckpt` is written: every few steps, but never at a step from which Lightning cannot resume exactly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.last_checkpoint import LastCheckpoint, ends_epoch, last_checkpoint


class Run:
    """A run of some steps, in which some end an epoch, accumulate, or have a validation due."""

    def __init__(self, folder: Path, **moments: set[int]) -> None:
        self.done: list[Any] = []
        self.moments = {"ends_epoch": set(), "validates": set(), "accumulates": set()} | moments
        loop = SimpleNamespace(
            _num_ready_batches_reached=lambda: self.at("ends_epoch"),
            _should_check_val_fx=lambda fetcher: self.at("validates"),
        )
        fit_loop = {"epoch_loop": loop, "_data_fetcher": None, "_should_accumulate": lambda: self.at("accumulates")}
        save = {"save_checkpoint": lambda state, path: self.done.append(state), "barrier": lambda name: None}
        self.trainer = SimpleNamespace(
            global_step=0,
            fit_loop=SimpleNamespace(**fit_loop),
            _checkpoint_connector=SimpleNamespace(dump_checkpoint=lambda weights_only: self.trainer.global_step),
            strategy=SimpleNamespace(**save),
            loggers=[SimpleNamespace(save=lambda: self.done.append("flushed"))],
            checkpoint_callback=None,
            log_dir=str(folder),
            num_training_batches=9,
            fast_dev_run=False,
            sanity_checking=False,
            state=SimpleNamespace(fn=TrainerFn.FITTING),
        )

    def at(self, moment: str) -> bool:
        return self.trainer.global_step in self.moments[moment]

    def go(self, callback: LastCheckpoint, num_steps: int, *, start: int = 0) -> list[Any]:
        self.trainer.global_step = start
        callback.on_train_start(self.trainer, None)
        for step in range(start + 1, num_steps + 1):
            callback.on_train_batch_start(self.trainer, None, None, 0)
            self.trainer.global_step = step
            callback.on_train_batch_end(self.trainer, None, None, None, 0)
        return [state for state in self.done if state != "flushed"]


def test_it_is_written_every_few_steps_once_the_step_is_logged(tmp_path):
    run = Run(tmp_path)
    assert run.go(LastCheckpoint(3), 6) == [3], "that of step 6 is written as the next step begins"
    assert run.done == ["flushed", 3]
    assert Run(tmp_path).go(LastCheckpoint(3), 7) == [3, 6]


def test_a_resumed_run_counts_from_its_own_start(tmp_path):
    assert Run(tmp_path).go(LastCheckpoint(3), 13, start=8) == [11]


@pytest.mark.parametrize("moment", ["ends_epoch", "validates", "accumulates"])
def test_a_step_that_is_not_one_to_resume_from_waits_for_the_next(tmp_path, moment):
    assert Run(tmp_path, **{moment: {3}}).go(LastCheckpoint(3), 8) == [4, 7]


def test_it_is_written_after_a_validation_and_after_the_last_step(tmp_path):
    run, callback = Run(tmp_path), LastCheckpoint(100)
    run.go(callback, 5)
    callback.on_validation_end(run.trainer, None)
    assert run.done == ["flushed", 5]
    callback.on_train_end(run.trainer, None)
    assert run.done == ["flushed", 5], "it is there already"
    run.trainer.global_step = 6
    callback.on_train_end(run.trainer, None)
    assert run.done[2:] == ["flushed", 6]


def test_nothing_is_written_outside_of_training(tmp_path):
    run, callback = Run(tmp_path), LastCheckpoint(1)
    run.trainer.sanity_checking = True
    callback.on_validation_end(run.trainer, None)
    run.trainer.sanity_checking, run.trainer.state.fn = False, TrainerFn.VALIDATING
    callback.on_validation_end(run.trainer, None)
    run.trainer.fast_dev_run = True
    assert run.go(callback, 3) == []


def test_it_lies_beside_the_best_checkpoint_or_in_the_folder_of_the_run(tmp_path):
    run = Run(tmp_path)
    assert last_checkpoint(run.trainer) == tmp_path / "checkpoints/last.ckpt"
    run.trainer.checkpoint_callback = ModelCheckpoint(str(tmp_path / "best"))
    assert last_checkpoint(run.trainer) == tmp_path / "best/last.ckpt"


def test_an_epoch_of_one_step_ends_nothing(tmp_path):
    run = Run(tmp_path, ends_epoch={0})
    assert ends_epoch(run.trainer)
    run.trainer.num_training_batches = 1
    assert not ends_epoch(run.trainer)
