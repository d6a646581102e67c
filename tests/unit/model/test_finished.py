"""The export that a path stands for: of a run, the newest start that reached its end."""

from pathlib import Path

import pytest

from descore.model.description import ExportError, describe
from descore.model.finished import find_export
from descore.types import ModelError


def finish(run: Path, version: int, *names: str) -> None:
    for name in names:
        (run / f"version_{version}/export/{name}").mkdir(parents=True)
        (run / f"version_{version}/export/{name}/descore.json").write_text("{}")


def test_a_run_stands_for_its_newest_finished_export(tmp_path):
    finish(tmp_path, 2, "best", "last")
    finish(tmp_path, 10, "best", "last")
    finish(tmp_path, 11, "best")  # was killed
    (tmp_path / "version_12").mkdir()  # failed at its start
    (tmp_path / "version_x99/export/last").mkdir(parents=True)
    (tmp_path / "version_x99/export/last/descore.json").write_text("{}")
    last = tmp_path / "version_10/export/last"
    assert find_export(tmp_path) == find_export(tmp_path / "version_10") == find_export(last) == last
    best = tmp_path / "version_11/export/best"
    assert find_export(best) == best


def test_an_export_that_is_being_replaced_counts(tmp_path):
    finish(tmp_path, 0, ".last.old")
    assert find_export(tmp_path) == tmp_path / "version_0/export/last"


def test_a_run_without_a_finished_export_says_so(tmp_path):
    finish(tmp_path, 0, "best")
    for path in (tmp_path, tmp_path / "version_0"):
        with pytest.raises(ModelError, match=r"no finished export.*RESUME=auto"):
            find_export(path)


def test_any_other_path_stays_what_it_is(tmp_path):
    assert find_export(tmp_path) == tmp_path
    assert str(find_export("owner/name")) == "owner/name"
    with pytest.raises(ExportError, match=r"no descore\.json"):
        describe(tmp_path)
