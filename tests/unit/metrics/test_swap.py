"""Own against swapped prompts, worked by hand."""

import math

import pytest

from descore.metrics import prompt_swap

NAN = math.nan


def test_a_swap_by_hand():
    """Falls 1, 0, -1, 2 and one unknown. The own rewards 0, 2, 4, 6 have squares 20 over 3."""
    found = prompt_swap([0, 2, 4, 6, 9], [-1, 2, 5, 4, NAN], ["a", "a", "b", "b", "b"])
    assert (found.fall, found.own_above, found.unmoved, found.num_videos) == (0.5, 0.625, 0.25, 4)
    assert found.relative_fall == pytest.approx(0.5 / math.sqrt(20 / 3))
    assert found.spearman == pytest.approx(0.8)  # ranks 1 2 3 4 and 1 2 4 3
    assert (found.own_above_low, found.own_above_high) == (0.5, 0.75)  # both falls of b count together: (0 + 1) / 2
    assert (found.fall_low, found.fall_high) == (0.5, 0.5)


def test_a_reward_that_ignores_the_prompt_is_at_chance():
    found = prompt_swap([1, 2, 3], [1, 2, 3], ["a", "b", "c"])
    assert (found.fall, found.relative_fall, found.own_above, found.unmoved) == (0, 0, 0.5, 1)
    assert found.spearman == pytest.approx(1)


def test_a_change_of_a_hundredth_of_the_spread_is_none():
    """The own rewards 0, 1, 2 have a standard deviation of 1."""
    assert prompt_swap([0, 1, 2], [0.009, 1.011, 2], ["a", "b", "c"]).unmoved == pytest.approx(2 / 3)


def test_equal_rewards_have_no_spread_to_fall_by():
    found = prompt_swap([0.1] * 3, [0.1, 0.1, 0.0], ["a", "b", "c"])
    assert math.isnan(found.relative_fall)
    assert found.unmoved == pytest.approx(2 / 3)


@pytest.mark.parametrize(("own", "swapped"), [([], []), ([NAN], [1]), ([1], [NAN])])
def test_without_a_video_there_is_no_number(own, swapped):
    found = prompt_swap(own, swapped, ["a"] * len(own))
    assert found.num_videos == 0
    assert all(math.isnan(value) for value in (found.fall, found.own_above, found.unmoved, found.spearman))
