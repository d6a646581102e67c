"""Tasks of the evidence run once, after what they need, and a stopped run goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence import schedule
from benchmarks.evidence.schedule import Task, TaskError, run_tasks
from tests.helpers.noting import note


@pytest.fixture(autouse=True)
def nothing_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start at once."""
    monkeypatch.setattr(schedule, "PRELOADED", [])


def make(folder: Path, name: str, *needs: str, fail: str = "") -> Task:
    return Task(name, note, (str(folder), name, " ".join(needs), fail), needs)


def test_tasks_run_once_and_after_what_they_need(tmp_path: Path) -> None:
    found = [make(tmp_path, "c", "a", "b"), make(tmp_path, "a"), make(tmp_path, "b", "a")]
    run_tasks(found, tmp_path / "marks", jobs=2)
    run_tasks(found, tmp_path / "marks", jobs=2)
    assert [(tmp_path / name).read_text() for name in "abc"] == ["once\n"] * 3
    assert (tmp_path / "marks/logs/a.txt").read_text() == "a runs\n"


def test_a_run_that_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    found = [make(tmp_path, "a"), make(tmp_path, "b", "a", fail="broken"), make(tmp_path, "c", "b")]
    with pytest.raises(TaskError, match=r"(?s)b failed: RuntimeError.*as asked for.*b runs"):
        run_tasks(found, tmp_path / "marks", jobs=1)
    assert not (tmp_path / "c").exists()
    (tmp_path / "broken").unlink()
    run_tasks(found, tmp_path / "marks", jobs=1)
    assert [(tmp_path / name).read_text() for name in "abc"] == ["once\n"] * 3


def test_a_task_that_is_to_be_done_in_another_way_is_an_error(tmp_path: Path) -> None:
    run_tasks([make(tmp_path, "a")], tmp_path / "marks", jobs=1)
    changed = Task("a", note, (str(tmp_path), "a", "", "elsewhere"))
    with pytest.raises(TaskError, match=r"was done with .* and is now to be done with .* elsewhere; remove its mark"):
        run_tasks([changed], tmp_path / "marks", jobs=1)
