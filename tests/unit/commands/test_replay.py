"""`descore replay`: a row for each pair, and the exit code 1 if any of them fails again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from descore.cli import main
from descore.objectives import replay
from descore.objectives.replay import Replayed
from tests.helpers.commands import refused


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Replay pairs that failed for these reasons; return the exit code and what is printed."""

    def run(*reasons: str) -> tuple[int, str]:
        pairs = [Replayed(0, f"p{i}", 0.5, 1.25, -2.5, 3.5, reason) for i, reason in enumerate(reasons)]
        monkeypatch.setattr(replay, "replay", lambda folder, device: iter(pairs))
        code = main(["replay", "folder", "--device", "cpu"])
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("reasons", "code"), [(("", ""), 0), (("head", ""), 1), (("", "the loss"), 1), (("head", "head"), 1)]
)
def test_the_exit_code_is_1_if_any_pair_fails_again(command, reasons, code):
    found, printed = command(*reasons)
    assert found == code
    assert all(reason in printed for reason in reasons)


def test_a_row_has_the_numbers_of_its_pair_in_order(command):
    (row,) = [line for line in command("")[1].splitlines() if "p0" in line]
    cells = [cell.strip() for cell in row.replace("│", "|").split("|")]
    assert [cell for cell in cells if cell] == ["0", "p0", "0.5", "1.25", "-2.5", "3.5"]


def test_a_folder_without_a_step_is_named(tmp_path, capsys):
    refused(capsys, r"no rank-0\.json", "replay", tmp_path, "--device", "cpu")
