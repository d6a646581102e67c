"""Scorers by path, and rewards and reasons of score records."""

import inspect
import logging
import math

import pytest

from descore.client import Client
from descore.integrations.calling import log_failures, reason_of, reward_of, scorer_of
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer


def test_a_scorer_is_made_of_a_path_and_taken_as_it_is(export, scorer):
    assert isinstance(scorer_of(export, device="cpu", dtype=None), Scorer)
    assert scorer_of(scorer, device=None) is scorer
    with pytest.raises(TypeError, match="thoughts go with a path of a model, got Scorer"):
        scorer_of(scorer, thoughts=False)


def test_rewards_and_reasons(caplog):
    good, raw, bad = Score(2.0, normalised_reward=0.5), Score(1.0), Score(math.nan, error="a.mp4: gone")
    assert [reward_of(one, use_norm=False) for one in (good, raw)] == [2.0, 1.0]
    assert reward_of(good, use_norm=True) == 0.5
    assert all(math.isnan(reward_of(one, use_norm=True)) for one in (raw, bad))
    assert reason_of(good, use_norm=True) is None
    assert "use_norm=False" in reason_of(raw, use_norm=True)
    with caplog.at_level(logging.WARNING):
        log_failures([good, raw], use_norm=False)
        assert not caplog.records
        log_failures([good, bad, bad], use_norm=False)
    assert [one.getMessage() for one in caplog.records] == ["2 of 3 videos have no reward (nan): a.mp4: gone"]


@pytest.mark.parametrize("kind", [Scorer, Client])
def test_a_scorer_and_a_client_are_called_alike(kind):
    asked = inspect.signature(kind.score).parameters
    assert list(asked)[:3] == ["self", "videos", "prompts"]
    assert {"num_thoughts", "fps"} <= set(asked)
