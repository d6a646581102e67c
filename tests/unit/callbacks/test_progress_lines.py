"""The lines that tell of a run's progress where there is no terminal."""

import re
from types import SimpleNamespace

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import Timer

from callbacks.progress import CompactProgressBar
from callbacks.progress_lines import ProgressLines
from callbacks.throughput import Throughput
from tests.helpers.fitting import data, system, trainer


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_every_few_steps_and_each_validation_are_a_line(world, tmp_path, capsys):
    run = trainer(tmp_path, Throughput(), CompactProgressBar(), ProgressLines(2), max_epochs=1, val_check_interval=3)
    run.fit(system(world, own_thought_pairs=0), data(world))
    seen = lines_of(capsys)
    number = r"-?\d+\.\d{3}"
    patterns = [
        r"step 0/6  training starts",
        rf"step 2/6  accuracy: {number}  loss: {number}  \d+\.\d pairs/s  0:00:0\d left",
        r"step 3/6  validating",
        rf"step 3/6  validated in 0:00:0\d  val accuracy: (nan|{number})",
        rf"step 4/6  .*loss: {number}  val accuracy: (nan|{number})  \d+\.\d pairs/s  0:00:0\d left",
        rf"step 6/6  .*loss: {number}.* 0:00:00 left",
        r"step 6/6  validating",
        r"step 6/6  validated in .*",
    ]
    assert len(seen) == len(patterns), seen
    for line, pattern in zip(seen, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_long_validation_says_how_far_it_is(world, tmp_path, capsys):
    run = trainer(tmp_path, ProgressLines(minutes=0), max_steps=1, val_check_interval=1)
    run.fit(system(world, own_thought_pairs=0), data(world))
    assert [line for line in lines_of(capsys) if " of " in line] == [
        f"step 1/1  validated {number} of 4 batches" for number in range(1, 5)
    ]


def test_a_resumed_run_goes_on_from_its_step(capsys):
    """Two steps since the start at step 100 take 20 s, so the 30 steps that are left take 300 s."""
    callback, clock = ProgressLines(2), iter([0.0, 20.0])
    run = SimpleNamespace(is_global_zero=True, callbacks=[], callback_metrics={}, progress_bar_metrics={})
    run.lightning_module = SimpleNamespace(num_steps=132)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("callbacks.progress_lines.time.monotonic", lambda: next(clock))
        run.global_step = 100
        callback.on_train_start(run, None)
        for run.global_step in (101, 102):
            callback.on_train_batch_end(run, None, None, None, 0)
    assert lines_of(capsys) == ["step 100/132  training starts", "step 102/132  0:05:00 left"]


def test_time_that_limits_the_run_is_what_is_left(world, tmp_path, capsys):
    timer = Timer(duration={"seconds": 3600})
    run = trainer(tmp_path, timer, ProgressLines(2), max_epochs=-1, limit_val_batches=0)

    class End(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 2

    run.callbacks.append(End())
    run.fit(system(world, own_thought_pairs=0), data(world))
    assert re.fullmatch(r"step 2  .*  (1:00:00|0:59:\d\d) left", lines_of(capsys)[1])


def test_a_terminal_has_the_bar_and_no_lines(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("callbacks.progress_lines.on_terminal", lambda: True)
    trainer(tmp_path, ProgressLines(1), max_steps=1).fit(system(world, own_thought_pairs=0), data(world))
    assert lines_of(capsys) == []
