"""What a run of scoring asks of the model: the protocol of its scores."""

from __future__ import annotations

import math

import pytest

from descore.inputs.settings import ModelSettings
from descore.scoring.folder import ScoringError
from descore.scoring.protocol import ScoringProtocol, describe_protocol
from descore.thinking.readout import ReadoutError

SETTINGS = ModelSettings("tiny", "Does it show {prompt}?")


@pytest.mark.parametrize(
    ("asked", "thoughts", "temperature"),
    [
        ({}, 1, 0.0),
        ({"num_thoughts": 4}, 4, 1.0),
        ({"num_thoughts": 4, "temperature": 0.5}, 4, 0.5),
        ({"temperature": 0.7}, 1, 0.7),
        ({"thoughts": False}, 0, None),
    ],
)
def test_one_thought_is_greedy_and_several_are_sampled(asked, thoughts, temperature):
    found = describe_protocol(SETTINGS, ScoringProtocol(**asked))
    assert (found["thoughts"], found["temperature"]) == (thoughts, temperature)


@pytest.mark.parametrize("asked", [{"num_thoughts": 4}, {"temperature": 0.5}])
def test_options_of_thoughts_are_refused_where_there_are_none(asked):
    settings = ModelSettings("tiny", "Does it show {prompt}?", thoughts=False)
    assert describe_protocol(settings, ScoringProtocol())["thoughts"] == 0
    with pytest.raises(ReadoutError, match="trained without thoughts"):
        describe_protocol(settings, ScoringProtocol(**asked))
    with pytest.raises(ScoringError, match=rf"{next(iter(asked))} is .*contradicts scoring without thoughts"):
        ScoringProtocol(thoughts=False, **asked)


def test_the_reward_is_that_of_the_model_or_the_one_asked_for():
    assert describe_protocol(SETTINGS, ScoringProtocol())["reward_from"] == "head"
    assert describe_protocol(SETTINGS, ScoringProtocol(reward_from="overall_score"))["reward_from"] == "overall_score"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0"),
        ({"temperature": math.nan}, "temperature is nan; expected 0"),
        ({"num_thoughts": 0}, "expected a number of thoughts of at least 1, got 0"),
        ({"num_thoughts": 1.5}, "expected a number of thoughts of at least 1, got 1.5"),
        ({"batch_size": -1}, "expected a batch size of at least 1, got -1"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(asked, reason):
    with pytest.raises(ScoringError, match=reason):
        ScoringProtocol(**asked)
