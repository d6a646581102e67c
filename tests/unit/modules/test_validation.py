"""What validation counts, by hand: the headline and the other readings, what failed, and the model's own thoughts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from descore.answer import Answer, write_thought
from descore.inputs.answers import AnswerSettings
from descore.modules import readings, validation
from descore.modules.readings import Given, GivenReader, HeadReader
from descore.modules.validation import Validation
from descore.thinking.readout import Readout
from descore.types import DIMENSIONS, Group, Pair, PairBatch, Side, Thought

EXACT = dict.fromkeys(DIMENSIONS, 2)
SAID = write_thought("A dog.", Answer(EXACT | {"style": 0}))


def model_of(names: Sequence[str] = ("overall",), answer: AnswerSettings = AnswerSettings()) -> Any:
    settings = SimpleNamespace(reward_names=tuple(names), answer=answer, is_pairwise=False)
    return SimpleNamespace(settings=settings, head=SimpleNamespace(weight=torch.zeros(1)))


def batch_of(*preferences: Sequence[float], graded: bool = True, thought: str = "It is so.") -> PairBatch:
    a, b = (Side("v.mp4", thought, EXACT | {"style": style} if graded else None) for style in (2, 0))
    pairs = tuple(Pair(f"p{i}", "a dog", a, b, tuple(row)) for i, row in enumerate(preferences))
    nothing = torch.zeros(len(pairs)).bool()
    return PairBatch(pairs, None, (), torch.tensor(preferences), torch.zeros(2, len(pairs), 1), nothing)


class Scripted(GivenReader):
    """Gives what it was told to, batch by batch."""

    names = ("answer_accuracy",)

    def __init__(self, *rewards: dict[str, list[list[list[float]]]], values: dict[str, Tensor] | None = None) -> None:
        self.rewards = [{name: torch.tensor(value) for name, value in one.items()} for one in rewards]
        self.values = values or {}

    def __call__(self, model: Any, batch: PairBatch) -> Given:
        return Given(self.rewards.pop(0), self.values)


def run(given: Scripted, *batches: PairBatch, own: int = 0, headline: str = "teacher_thought", **options: Any) -> dict:
    found = Validation(options.get("model") or model_of(), ["val"], own, headline, given)
    for batch in batches:
        found.step(batch, 0)
    return {name: value for name, value in found.results().items() if not math.isnan(value)}


def test_rewards_by_hand():
    """A 3, 0, 1 and B 1, 3, 1; A, A and a tie: margins 2 and -3. Mean 9 / 6, squares 21 / 6."""
    rewards = {"teacher_thought": [[[3.0], [0.0], [1.0]], [[1.0], [3.0], [1.0]]]}
    rewards["no_thought"] = [[[1.0], [1.0], [1.0]], [[0.0], [0.0], [0.0]]]
    found = run(Scripted(rewards), batch_of([1.0], [1.0], [0.0]))
    assert found == pytest.approx({
        "val/preference_accuracy": 0.5,
        "val/preference_accuracy_no_thought": 1.0,
        "val/reward_margin": -0.5,
        "val/reward_mean": 1.5,
        "val/reward_std": math.sqrt(21 / 6 - 1.5**2),
        "val/failed_share": 0.0,
    })


def test_the_margin_is_that_of_the_preferred_video():
    """B is preferred and has 2 more; the pair without a label does not count."""
    rewards = {"teacher_thought": [[[1.0], [9.0]], [[3.0], [0.0]]]}
    found = run(Scripted(rewards), batch_of([-1.0], [math.nan]))
    assert found["val/reward_margin"] == 2
    assert found["val/preference_accuracy"] == 1


def test_the_headline_is_that_of_its_reading():
    right, wrong = [[[1.0]], [[0.0]]], [[[0.0]], [[1.0]]]
    for headline, accuracy in (("teacher_thought", 0.0), ("no_thought", 1.0)):
        given = Scripted({"teacher_thought": wrong, "no_thought": right})
        found = run(given, batch_of([1.0]), headline=headline)
        assert (found["val/preference_accuracy"], found["val/reward_margin"]) == (accuracy, 2 * accuracy - 1)


def test_what_failed_is_counted_and_in_no_mean():
    rewards = {"teacher_thought": [[[math.nan], [3.0]], [[1.0], [2.0]]]}
    found = run(Scripted(rewards), batch_of([1.0], [1.0]))
    assert found["val/failed_share"] == 0.25
    assert (found["val/preference_accuracy"], found["val/reward_margin"], found["val/reward_mean"]) == (1, 1, 2)


def test_several_rewards_are_told_apart_and_their_accuracies_averaged():
    rewards = {"teacher_thought": [[[1.0, 1.0]], [[0.0, 3.0]]]}
    found = run(Scripted(rewards), batch_of([1.0, 1.0]), model=model_of(("motion", "look")))
    assert found["val/preference_accuracy"] == 0.5
    assert (found["val/preference_accuracy/motion"], found["val/preference_accuracy/look"]) == (1, 0)
    assert (found["val/reward_margin/motion"], found["val/reward_margin/look"]) == (1, -2)


def test_the_first_table_has_the_plain_tag():
    found = Validation(model_of(), ["val", "ood"], 0, "teacher_thought", Scripted())
    assert found.tags == ["val", "val/ood"]


def test_values_of_the_reader_are_averaged_over_batches():
    given = Scripted({}, {}, values={"answer_accuracy": torch.tensor([1.0, 0.0, 0.0])})
    assert run(given, batch_of([1.0]), batch_of([1.0])) == pytest.approx({"val/answer_accuracy": 1 / 3})


@pytest.fixture
def thinks(monkeypatch) -> list[int]:
    """How many videos it thought about, call by call; the thought about video i has i + 1 tokens."""
    calls: list[int] = []

    def think(model: Any, batch: Any) -> list[Group]:
        calls.append(2 * 2)
        texts = [SAID, "<think>"] * 2
        return [
            Group((Thought((7,) * (place + 1)),), (text,), (), torch.tensor([[float(place)]]))
            for place, text in enumerate(texts)
        ]

    def read(model: Any, branches: Any, groups: list[Group]) -> list[Readout]:
        return [Readout(group.rewards, (None,)) for group in groups]

    monkeypatch.setattr(validation, "think_about_pairs", think)
    monkeypatch.setattr(readings, "read_rewards", read)
    return calls


@pytest.mark.parametrize(("own", "num_calls"), [(0, 0), (1, 1), (2, 1), (3, 2), (9, 3)])
def test_the_model_thinks_about_as_many_pairs_as_were_asked_for(thinks, own, num_calls):
    """Three batches of two pairs each."""
    run(Scripted({}, {}, {}), *[batch_of([1.0], [1.0])] * 3, own=own)
    assert len(thinks) == num_calls


def test_own_thoughts_by_hand(thinks):
    """Videos A have 0 and 1, videos B 2 and 3: A is called right once. Four thoughts of 1 to 4 tokens, two well formed.

    That about A has four of five scores right, that about B all of them.
    """
    found = run(Scripted({}), batch_of([1.0], [-1.0]), own=2, headline="own_thought")
    assert found["val/preference_accuracy"] == 0.5
    assert (found["val/well_formed"], found["val/thought_tokens"]) == (0.5, 2.5)
    assert found["val/dimension_accuracy"] == pytest.approx((0.8 + 1.0) / 4)
    assert "val/dimension_accuracy" not in run(Scripted({}), batch_of([1.0], [1.0], graded=False), own=2)


def test_an_answer_with_fields_is_well_formed_where_all_are_said(thinks):
    model = model_of(answer=AnswerSettings({"style": "$.dimension_scores.style"}, lowest=0))
    found = run(Scripted({}), batch_of([1.0], [-1.0]), own=2, headline="own_thought", model=model)
    assert found["val/well_formed"] == 0.5
    assert "val/dimension_accuracy" not in found


def test_the_head_is_read_with_and_without_the_teachers_thought():
    """Branches of A of both pairs, then of B: with a thought, and without one."""
    rewards = torch.tensor([[1.0], [10.0], [2.0], [20.0], [3.0], [30.0], [4.0], [40.0]])
    batch = batch_of([1.0], [1.0])
    found = HeadReader(needs_thoughts=True)(lambda _: SimpleNamespace(rewards=rewards), batch).rewards
    assert found["teacher_thought"].tolist() == [[[1.0], [2.0]], [[3.0], [4.0]]]
    assert found["no_thought"].tolist() == [[[10.0], [20.0]], [[30.0], [40.0]]]


@pytest.mark.parametrize(("needs", "expected"), [(True, {"no_thought"}), (False, {"no_thought", "teacher_thought"})])
def test_pairs_without_a_thought_are_not_read_with_one(needs, expected):
    batch, rewards = batch_of([1.0], thought=""), torch.zeros(4, 1)
    assert set(HeadReader(needs_thoughts=needs)(lambda _: SimpleNamespace(rewards=rewards), batch).rewards) == expected
