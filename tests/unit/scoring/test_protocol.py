"""What a run of scoring asks of the model: the protocol of its scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.scoring.folder import ScoringError
from descore.scoring.placing import CPU_TOKENS
from descore.scoring.protocol import ScoringProtocol, describe_protocol
from descore.thinking.readout import ReadoutError

SETTINGS = ModelSettings("tiny", "Does it show {prompt}?")


def describe(settings: ModelSettings, asked: ScoringProtocol, resumed: dict[str, Any] | None = None) -> dict[str, Any]:
    return describe_protocol(Processor(settings), asked, torch.device("cpu"), resumed)


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
    found = describe(SETTINGS, ScoringProtocol(**asked))
    assert (found["thoughts"], found["temperature"]) == (thoughts, temperature)


@pytest.mark.parametrize("asked", [{"num_thoughts": 4}, {"temperature": 0.5}])
def test_options_of_thoughts_are_refused_where_there_are_none(asked):
    settings = ModelSettings("tiny", "Does it show {prompt}?", thoughts=False)
    assert describe(settings, ScoringProtocol())["thoughts"] == 0
    with pytest.raises(ReadoutError, match="trained without thoughts"):
        describe(settings, ScoringProtocol(**asked))
    with pytest.raises(ScoringError, match=rf"{next(iter(asked))} is .*contradicts scoring without thoughts"):
        ScoringProtocol(thoughts=False, **asked)


def test_the_reward_is_that_of_the_model_or_the_one_asked_for():
    assert describe(SETTINGS, ScoringProtocol())["reward_from"] == "head"
    assert describe(SETTINGS, ScoringProtocol(reward_from="overall_score"))["reward_from"] == "overall_score"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0"),
        ({"temperature": math.nan}, "temperature is nan; expected 0"),
        ({"num_thoughts": 0}, "expected a number of thoughts of at least 1, got 0"),
        ({"num_thoughts": 1.5}, "expected a number of thoughts of at least 1, got 1.5"),
        ({"max_batch_tokens": -1}, "expected a number of tokens in a batch of at least 1, got -1"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(asked, reason):
    with pytest.raises(ScoringError, match=reason):
        ScoringProtocol(**asked)


def test_what_is_not_asked_for_is_that_of_the_run_that_is_resumed():
    first = describe(SETTINGS, ScoringProtocol())
    assert (first["dtype"], first["max_batch_tokens"]) == ("float32", CPU_TOKENS)
    other = describe(SETTINGS, ScoringProtocol(dtype="bfloat16", max_batch_tokens=99))
    assert (other["dtype"], other["max_batch_tokens"]) == ("bfloat16", 99)
    assert describe(SETTINGS, ScoringProtocol(), resumed=other) == other
    assert describe(SETTINGS, ScoringProtocol(dtype="float32"), resumed=other)["dtype"] == "float32"
