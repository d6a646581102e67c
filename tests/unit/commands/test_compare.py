"""`descore compare` by hand: the numbers that it prints are those of the right column."""

from __future__ import annotations

import json

import pytest

from descore.cli import main
from descore.commands.compare import _difference
from tests.helpers.commands import refused
from tests.helpers.evaluations import Judged, Shown, write_evaluation


def test_a_difference_has_its_sign_and_its_own_interval():
    record = {"difference": -0.25, "difference_interval": (-0.5, 0.125), "interval": (0.6, 0.9), "p_value": 0.03125}
    difference, p_value = _difference(record)
    assert "-25.0" in difference
    assert "-50.0" in difference
    assert "+12.5" in difference
    assert p_value == "0.031"
    assert _difference({"accuracy": 0.5}) == ["", ""]
    assert _difference(record | {"p_value": None})[1] == "-"


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """The first run calls one of two pairs right, the second both."""
    rewards = {"one": [(1.0, 0.0), (0.0, 1.0)], "two": [(1.0, 0.0), (1.0, 0.0)]}
    for name, pairs in rewards.items():
        judged = [Judged(f"p{i}", Shown(f"a{i}", a), Shown(f"b{i}", b)) for i, (a, b) in enumerate(pairs)]
        write_evaluation(tmp_path / name, judged)
    return [str(tmp_path / name) for name in rewards]


def test_runs_are_compared_with_the_first(folders, capsys):
    assert main(["compare", *folders, "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)["dimensions"]["overall"]
    assert (one["accuracy"], two["accuracy"], two["difference"], two["p_value"]) == (0.5, 1, 0.5, 1)
    assert main(["compare", *folders]) == 0
    assert "+50.0" in capsys.readouterr().out


def test_a_table_fits_80_columns_whatever_the_runs_are_called(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [Judged(f"p{i}", Shown(f"a{i}", float(i % 9 > 0)), Shown(f"b{i}", 0.5)) for i in range(30)]
    folders = [tmp_path / f"a-run-of-{'many-' * 20}words" / name for name in ("one", "two")]
    for folder in folders:
        write_evaluation(folder, rows)
    names = ["[bold]stage 1[/bold]", "stage 2 " + "with-all-its-options-" * 6]
    for options in ([], ["--name", names[0], "--name", names[1]]):
        assert main(["compare", *map(str, folders), *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        text = "".join("".join(lines).split())
        assert all(number in text for number in ("86.7%", "+0.0%", "(+0.0to+0.0)", "decided", "difference"))
        for name in names if options else ["one", "two"]:
            assert "".join(name.split())[:6] in text


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_every_run_has_a_name_of_its_own(folders, capsys, names):
    reason = "expected a different --name for each of the 2 runs"
    refused(capsys, reason, "compare", *folders, *(word for name in names for word in ("--name", name)))
