"""Spread and correlation within groups, worked by hand."""

import math

import pytest

from descore.metrics import group_correlation, group_spread

NAN = math.nan


def test_the_spread_within_groups_by_hand():
    """a: 1, 2, 3 (squares 2); b: 10, 14 (squares 8), c: one reward, and a failed one. Within: 10 over 2 + 1.

    All five: mean 6, squares 25 + 16 + 9 + 16 + 64 = 130 over 4.
    """
    found = group_spread([1, 10, 2, NAN, 14, 7, 3], ["a", "b", "a", "c", "b", "c", "a"])
    assert found.within == pytest.approx(math.sqrt(10 / 3))
    assert found.total == pytest.approx(math.sqrt(130 / 4))
    assert found.share == pytest.approx(math.sqrt(10 / 3) / math.sqrt(130 / 4))
    assert (found.flat, found.num_groups, found.num_rewards) == (0, 2, 5)


def test_a_group_is_flat_up_to_a_hundredth_of_all_spread():
    """Pairs 0, d and 0, 100: the deviations are d / sqrt 2 and 100 / sqrt 2, and that of all four about 50."""
    assert group_spread([0, 0.6, 0, 100], ["a", "a", "b", "b"]).flat == 0.5
    assert group_spread([0, 0.8, 0, 100], ["a", "a", "b", "b"]).flat == 0


def test_groups_that_do_not_differ_have_the_whole_spread():
    """Both pairs are 0 and 1: within 1/2 over 1 each; all four have squares 1 over 3."""
    found = group_spread([0, 1, 0, 1], [0, 0, 1, 1])
    assert found.share == pytest.approx(math.sqrt(1 / 2) / math.sqrt(1 / 3))


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -3.3])
def test_equal_rewards_have_no_spread_at_all(value):
    found = group_spread([value] * 7, ["a"] * 3 + ["b"] * 4)
    assert (found.within, found.total, found.flat) == (0, 0, 1)
    assert math.isnan(found.share)


@pytest.mark.parametrize(("rewards", "groups"), [([], []), ([1, 2], ["a", "b"]), ([NAN, 1], ["a", "a"])])
def test_without_a_group_of_two_there_is_no_spread(rewards, groups):
    found = group_spread(rewards, groups)
    assert found.num_groups == found.num_rewards == 0
    assert math.isnan(found.within)
    assert math.isnan(found.flat)


def test_the_correlation_within_groups_by_hand():
    """a: 1; b: 0.5; c: the rewards are equal; d: only one row is known. Overall, the groups' levels are not seen."""
    rows = [
        ("a", 1, 10), ("b", -7, 100), ("a", 2, 20), ("b", -5, 120), ("b", -6, 130),
        ("c", 3, 5), ("c", 3, 6), ("d", NAN, 1), ("d", 4, NAN), ("d", 5, 3),
    ]  # fmt: skip
    groups, rewards, lengths = zip(*rows, strict=True)
    found = group_correlation(rewards, lengths, groups)
    assert found.spearman == pytest.approx(0.75)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(1))
    assert found.num_groups == 2


def test_a_group_that_does_not_vary_has_no_correlation():
    found = group_correlation([1, 1, 2], [1, 2, 2], ["a", "a", "b"])
    assert math.isnan(found.spearman)
    assert found.num_groups == 0


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match="expected 2 groups, one for each row, got 1"):
        group_spread([1, 2], ["a"])
