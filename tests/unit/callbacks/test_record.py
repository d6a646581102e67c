"""The record of a run: enough to make it again, and a warning where it goes on as something else."""

import json
import shlex
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks import record
from callbacks.record import RunRecord
from tests.helpers.fitting import data, system, trainer


def starts(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "run/version_0/record.json").read_text())


def test_a_run_says_what_it_was_made_with(world, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--with options"])
    trainer(tmp_path, RunRecord(), max_steps=1).fit(system(world), data(world))
    (start,) = starts(tmp_path)
    assert start["packages"]["lightning"] == version("lightning")
    assert (start["seed"], start["world_size"], start["resumed_from"]) == (7, 1, None)
    assert start["command"] == shlex.join([sys.executable, "train.py", "--with options"])
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert start["commit"] == (head.stdout.strip() or None)


def test_a_run_that_goes_on_with_other_packages_warns(world, tmp_path, monkeypatch):
    trainer(tmp_path, RunRecord(), max_steps=1).fit(system(world), data(world))
    file = tmp_path / "run/version_0/record.json"
    before = starts(tmp_path)
    before[0]["packages"]["torch"] = "2.7.0"
    file.write_text(json.dumps(before))
    again = trainer(tmp_path, RunRecord(), max_steps=1)
    monkeypatch.setattr(type(again), "log_dir", str(file.parent))
    with pytest.warns(UserWarning, match=rf"started with another torch \(2\.7\.0, now {version('torch')[:4]}"):
        again.fit(system(world), data(world))
    assert [start["packages"]["torch"] for start in starts(tmp_path)] == ["2.7.0", version("torch")]


def test_a_start_is_compared_with_the_one_before_and_added_to_all_of_them(tmp_path, monkeypatch):
    """One device, then two, then two: of the last nothing has changed."""
    sizes = iter([1, 2, 2])
    monkeypatch.setattr(record, "_describe", lambda trainer: {"world_size": next(sizes)})
    run = SimpleNamespace(log_dir=str(tmp_path), is_global_zero=True, fast_dev_run=False)
    RunRecord().on_fit_start(run, None)
    with pytest.warns(UserWarning, match=r"another world_size \(1, now 2\)"):
        RunRecord().on_fit_start(run, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RunRecord().on_fit_start(run, None)
    assert json.loads((tmp_path / "record.json").read_text()) == [{"world_size": size} for size in (1, 2, 2)]


def test_a_project_that_is_no_clone_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert record._git("rev-parse", "HEAD") is None
