"""Rejection sampling: the first whole thought of each order whose verdict is the label."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from descore.cli import main
from descore.evaluation.folder import Evaluation
from descore.evaluation.rejection import right_thoughts
from descore.inputs.choice import ChoiceSettings
from descore.pairwise.comparison import Comparison, Order
from descore.scoring.folder import ScoringError
from descore.tables.pairs import read_pairs
from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from tests.helpers.commands import refused

FIRST, SECOND = (f"<think>x</think><answer>Video {place} is better</answer>" for place in (1, 2))
CUT = "<answer>Video 1 is better</answer>"


def said(a_first: tuple[str, ...], b_first: tuple[str, ...]) -> Comparison:
    return Comparison(orders=(Order(0.5, 0, 0.5, a_first), Order(0.5, 0, 0.5, b_first)), error="none has a choice")


EVERY = said((CUT, SECOND, FIRST, FIRST + " "), (FIRST, FIRST, SECOND, "x"))


@pytest.fixture
def table(data: Path, tmp_path: Path) -> Path:
    """Three pairs: A is better, B is better with thoughts of somebody else, a tie."""
    (found, *_) = read_pairs(data / "pairs.jsonl").pairs
    labels = {"p0": 1.0, "p1": -1.0, "p2": 0.0}
    pairs = [replace(found, id=name, preference=(label,)) for name, label in labels.items()]
    pairs[1] = replace(pairs[1], thoughts=("old", "old"))
    write_pairs(tmp_path / "table.jsonl", pairs)
    return tmp_path / "table.jsonl"


def evaluation(table: Path, *found: Comparison | None, **protocol: Any) -> Evaluation:
    protocol = {"kind": "pairwise", "thoughts": 4, "choice": asdict(ChoiceSettings())} | protocol
    info = {"table": str(table), "preset": "descore", "dimensions": ["overall"], "protocol": protocol}
    compared = [None if one is None else one.to_json() for one in found]
    pairs = [{"id": f"p{index}"} for index in range(len(found))]
    return Evaluation(table.parent / "run", info, pairs, [], [], {}, comparisons=compared)


def test_the_first_right_thought_of_each_order_is_kept(table: Path) -> None:
    """A is better: the first video with A first, and the second with B first."""
    found = right_thoughts(evaluation(table, EVERY, said((FIRST,), (FIRST,)), EVERY))
    assert [pair.thoughts for pair in found] == [(FIRST, SECOND), ("", FIRST), ("", "")]
    assert found[0].a == read_pairs(table).pairs[0].a


def test_a_pair_that_failed_keeps_nothing(table: Path) -> None:
    _, found = right_thoughts(evaluation(table, EVERY, Comparison(error="gone.mp4: no such file")))
    assert found.thoughts == ("", "")


def test_what_has_no_thoughts_about_two_videos_is_refused(table: Path) -> None:
    for protocol in ({"thoughts": 0}, {"choice": None}):
        with pytest.raises(ScoringError, match="expected the evaluation of a model that compares two videos and think"):
            right_thoughts(evaluation(table, EVERY, **protocol))
    with pytest.raises(ScoringError, match="1 of 2 pairs are compared; repeat descore evaluate"):
        right_thoughts(evaluation(table, EVERY, None))
    write_pairs(table, [Pair("other", "a bar", Side("a.mp4"), Side("b.mp4"), (1.0,))])
    with pytest.raises(ScoringError, match=r"pair p0 of .* is not there any more"):
        right_thoughts(evaluation(table, EVERY))


def test_the_command_writes_what_can_be_trained_on(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluation(table, EVERY, EVERY, EVERY)
    monkeypatch.setattr("descore.evaluation.folder.load_evaluation", lambda folder: run)
    output = tmp_path / "new" / "kept.jsonl"
    assert main(["reject", "runs/thoughts", "--output", str(output)]) == 0
    kept = {pair.id: pair.thoughts for pair in read_pairs(output).pairs}
    assert kept == {"p0": (FIRST, SECOND), "p1": (SECOND, FIRST)}
    assert f"kept 4 of 6 orders, of 2 of 3 pairs: {output}" in capsys.readouterr().out
    refused(capsys, "an output that does not exist", "reject", "runs/thoughts", "--output", str(output))
    refused(capsys, "ends in .jsonl", "reject", "runs/thoughts", "--output", str(tmp_path / "kept.csv"))
    run = evaluation(table, said((), ()), said((), ()), said((), ()))
    assert main(["reject", "runs/thoughts", "--output", str(tmp_path / "none.jsonl")]) == 1
    assert not (tmp_path / "none.jsonl").exists()
