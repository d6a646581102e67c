"""What an evaluation asks of the model: the protocol of its scores."""

from __future__ import annotations

import pytest

from descore.evaluation.request import EvaluationProtocol, make_protocol
from descore.inputs.settings import ModelSettings

SETTINGS = ModelSettings("tiny", "Does it show {prompt}?")


@pytest.mark.parametrize(
    ("asked", "thoughts", "temperature"),
    [
        ({}, 1, 0.0),
        ({"num_thoughts": 4}, 4, 1.0),
        ({"num_thoughts": 4, "temperature": 0.5}, 4, 0.5),
        ({"temperature": 0.7}, 1, 0.7),
        ({"thoughts": False}, 0, None),
        ({"thoughts": False, "num_thoughts": 4, "temperature": 0.5}, 0, None),
    ],
)
def test_one_thought_is_greedy_and_several_are_sampled(asked, thoughts, temperature):
    found = make_protocol(SETTINGS, EvaluationProtocol(**asked))
    assert (found["thoughts"], found["temperature"]) == (thoughts, temperature)


def test_a_model_that_never_thinks_is_asked_for_none():
    settings = ModelSettings("tiny", "Does it show {prompt}?", thoughts=False)
    assert make_protocol(settings, EvaluationProtocol(num_thoughts=4))["thoughts"] == 0


def test_the_reward_is_that_of_the_model_or_the_one_asked_for():
    assert make_protocol(SETTINGS, EvaluationProtocol())["reward_from"] == "head"
    assert make_protocol(SETTINGS, EvaluationProtocol(reward_from="overall_score"))["reward_from"] == "overall_score"


def test_a_number_of_thoughts_out_of_range_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="temperature is -1"):
        make_protocol(SETTINGS, EvaluationProtocol(temperature=-1.0))
