"""Numbers for videos from comparisons, by hand."""

import math

import numpy as np
import pytest

from descore.pairwise.comparison import Comparison
from descore.selection.ranking import rank
from descore.selection.tournament import bradley_terry, enter, rate_against, rate_group, win_rates


def found(p_a: float, p_tie: float = 0.0) -> Comparison:
    return Comparison(p_a, p_tie, 1 - p_a - p_tie, verdict="A")


FAILED = Comparison(error="c.mp4: no such file")


def test_a_tie_is_half_a_win_for_both():
    wins = enter(2, [found(0.5, 0.2)]).wins
    assert wins[0, 1] == pytest.approx(0.6)
    assert wins[1, 0] == pytest.approx(0.4)


def test_win_rates_of_three_by_hand():
    """A beats B with .9 and C with .7; B beats C with .6: the means are .8, (.1 + .6) / 2 and (.3 + .4) / 2."""
    scores = rate_group(enter(3, [found(0.9), found(0.7), found(0.6)]), "win_rate")
    assert [score.reward for score in scores] == pytest.approx([0.8, 0.35, 0.35])


def test_strengths_of_consistent_rates_are_their_log_odds():
    """Rates that are sigmoid(s_i - s_j) are fitted to the strengths that they were made of, less their mean."""
    strengths = np.array([1.5, 0.0, -0.6])
    wins = 1 / (1 + np.exp(-(strengths[:, None] - strengths[None])))
    np.fill_diagonal(wins, math.nan)
    assert bradley_terry(wins, ridge=0.0) == pytest.approx(strengths - strengths.mean(), abs=1e-4)


def test_a_video_that_always_wins_has_a_finite_strength():
    scores = rate_group(enter(3, [found(1.0), found(1.0), found(1.0)]))
    first, second, third = (score.reward for score in scores)
    assert math.isfinite(first)
    assert first > second > third
    assert first + second + third == pytest.approx(0, abs=1e-9)


def test_a_video_that_failed_is_out_and_the_others_are_rated():
    tournament = enter(3, [found(0.75), FAILED, FAILED])
    scores = rate_group(tournament)
    assert scores[2].error == FAILED.error
    assert math.isnan(scores[2].reward)
    assert [score.error for score in scores[:2]] == [None, None]
    assert win_rates(tournament.wins)[:2] == pytest.approx([0.75, 0.25])
    ranked = rank(scores, tournament.wins)
    assert [(one.index, one.probability) for one in ranked] == [(0, 0.75), (1, None), (2, None)]


def test_a_reference_gives_each_video_its_probability():
    good, bad = rate_against([found(0.2, 0.5), FAILED])
    assert good.reward == pytest.approx(0.45)
    assert bad.error == FAILED.error


def test_videos_alone_have_no_comparison():
    (score,) = rate_group(enter(1, []))
    assert score.error == "there is no other video to compare it with"
