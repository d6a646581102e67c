"""Rejection sampling: the first whole thought of each order whose verdict is the label."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from descore.cli import main
from descore.inputs.choice import ChoiceSettings
from descore.pairwise.comparison import Comparison, Order
from descore.scoring.folder import ScoringError
from descore.selection.rejection import sample_right
from descore.tables.pairs import read_pairs
from descore.types import Pair, Side
from tests.helpers.commands import refused

FIRST, SECOND = (f"<think>x</think><answer>Video {place} is better</answer>" for place in (1, 2))
CUT = "<answer>Video 1 is better</answer>"


def pair(name: str, preference: float, thoughts: tuple[str, str] = ("", "")) -> Pair:
    return Pair(name, "a bar", Side(f"{name}a.mp4", "of A"), Side(f"{name}b.mp4"), (preference,), thoughts)


def scorer_of(*found: Comparison, thoughts: bool = True, pairwise: bool = True) -> Any:
    settings = SimpleNamespace(choice=ChoiceSettings(), is_pairwise=pairwise)
    return SimpleNamespace(
        model=SimpleNamespace(settings=settings),
        thoughts=thoughts,
        stream_comparisons=lambda a, b, prompts, **how: iter(found),
    )


def said(a_first: tuple[str, ...], b_first: tuple[str, ...]) -> Comparison:
    return Comparison(orders=(Order(0.5, 0, 0.5, a_first), Order(0.5, 0, 0.5, b_first)), error="none has a choice")


def test_the_first_right_thought_of_each_order_is_kept():
    """A is better: the first video with A first, and the second with B first."""
    pairs = [pair("p0", 1.0), pair("p1", -1.0, ("old", "old")), pair("p2", 0.0), pair("p3", math.nan)]
    every = said((CUT, SECOND, FIRST, FIRST + " "), (FIRST, FIRST, SECOND, "x"))
    found = list(sample_right(scorer_of(every, said((FIRST,), (FIRST,)), every, every), pairs))
    assert [one.pair.thoughts for one in found] == [(FIRST, SECOND), ("", FIRST), ("", ""), ("", "")]
    assert [one.error for one in found] == [None] * 4, "a thought without a verdict is no failure"
    assert found[0].pair.a.thought == "of A"


def test_a_pair_that_fails_keeps_nothing_and_has_its_reason():
    (found,) = sample_right(scorer_of(Comparison(error="gone.mp4: no such file")), [pair("p", 1.0, ("old", "old"))])
    assert (found.pair.thoughts, found.error) == (("", ""), "gone.mp4: no such file")


def test_a_model_that_does_not_think_is_refused():
    with pytest.raises(ScoringError, match="compares without a thought"):
        sample_right(scorer_of(thoughts=False), [pair("p", 1.0)])


@pytest.fixture
def table(data, tmp_path, monkeypatch) -> Any:
    """A table of four pairs, and a model that calls the first video better, whatever it sees."""
    always = Comparison(orders=(Order(1, 0, 0, (FIRST,)), Order(0, 0, 1, (FIRST,))))
    monkeypatch.setattr("descore.scoring.scorer.Scorer", lambda *args, **options: scorer_of(*[always] * 4))
    return data / "pairs.jsonl"


def test_the_command_writes_what_can_be_trained_on(table, tmp_path, capsys):
    output = tmp_path / "new" / "kept.jsonl"
    assert main(["reject", str(table), "--model", "runs/x", "--output", str(output)]) == 0
    before = {one.id: one for one in read_pairs(table).pairs}
    decided = {1.0: (FIRST, ""), -1.0: ("", FIRST)}
    kept = {one.id: one.thoughts for one in read_pairs(output).pairs}
    assert kept == {name: decided[one.preference[0]] for name, one in before.items() if one.preference[0]}
    assert f"kept {len(kept)} of 8 orders, of {len(kept)} of 4 pairs; 0 failed: {output}" in capsys.readouterr().out
    refused(capsys, "an output that does not exist", "reject", str(table), "--model", "x", "--output", str(output))
    refused(capsys, "ends in .jsonl", "reject", str(table), "--model", "x", "--output", str(tmp_path / "kept.csv"))
