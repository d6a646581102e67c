"""Best-of-N: order, margins, and how sure each place is."""

import math
from statistics import mean, stdev

import pytest
from scipy import stats

from descore.scoring.score import Score
from descore.selection.ranking import probability_better, rank

FAILED = Score(math.nan, error="gone.mp4: no such file")


def score(*rewards: float) -> Score:
    return Score(mean(rewards), reward_std=stdev(rewards), each=tuple(Score(reward) for reward in rewards))


def test_the_best_comes_first_equal_ones_keep_their_order_and_failed_ones_come_last():
    ranked = rank([FAILED, Score(1.0), Score(3.0), Score(1.0), FAILED])
    assert [one.index for one in ranked] == [2, 1, 3, 0, 4]
    assert [one.margin for one in ranked] == [2.0, 0.0, None, None, None]


def test_an_infinite_reward_is_no_trap():
    assert [one.index for one in rank([Score(-math.inf), Score(math.inf)])] == [1, 0]


def test_nothing_gives_nothing():
    assert rank([]) == []


def test_the_probability_is_that_of_welchs_test():
    a, b = (1.0, 2.5, 1.5, 2.0), (0.5, 1.0, 2.0)
    expected = 1 - stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue
    assert probability_better(score(*a), score(*b)) == pytest.approx(expected, abs=1e-12)
    assert probability_better(score(*b), score(*a)) == pytest.approx(1 - expected, abs=1e-12)


def test_more_thoughts_make_surer():
    few, many = (score(1.0, 2.0), score(0.0, 1.0)), (score(*[1.0, 2.0] * 8), score(*[0.0, 1.0] * 8))
    assert 0.5 < probability_better(*few) < probability_better(*many) < 1


def test_thoughts_that_failed_are_not_counted():
    broken = Score(1.5, reward_std=stdev((1.0, 2.0)), each=(Score(1.0), Score(math.nan, error="no answer"), Score(2.0)))
    assert probability_better(broken, score(0.0, 1.0)) == probability_better(score(1.0, 2.0), score(0.0, 1.0))


def test_without_any_spread_the_order_is_certain():
    assert probability_better(score(1.0, 1.0), score(0.0, 0.0)) == 1.0
    assert probability_better(score(0.0, 0.0), score(1.0, 1.0)) == 0.0
    assert probability_better(score(1.0, 1.0), score(1.0, 1.0)) == 0.5


def test_one_thought_has_no_spread():
    assert probability_better(Score(1.0), score(0.0, 1.0)) is None
