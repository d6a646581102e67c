from math import nan, sqrt
from typing import get_args

import pytest
import torch

from descore.advantages import AdvantageVariant, group_advantages, has_spread, without_outliers

VARIANTS = get_args(AdvantageVariant)


def test_grpo_by_hand():
    """Rewards 3 1 1 3: mean 2, sample variance 4 / 3. Rewards 0 0 0 4: mean 1, sample variance (3 + 9) / 3 = 4."""
    advantages = group_advantages(torch.tensor([[3.0, 1, 1, 3], [0, 0, 0, 4]]))
    high = sqrt(3) / 2
    expected = torch.tensor([[high, -high, -high, high], [-0.5, -0.5, -0.5, 1.5]])
    torch.testing.assert_close(advantages, expected, rtol=0, atol=2e-6)


def test_the_epsilon_is_one_millionth():
    """Rewards 0 and 2e-6: deviations 1e-6, std sqrt(2) 1e-6, so 1 / (sqrt(2) + 1)."""
    advantages = group_advantages(torch.tensor([[0, 2e-6]], dtype=torch.float64))
    assert advantages[0, 1].item() == pytest.approx(1 / (sqrt(2) + 1), rel=1e-9)


def test_dr_grpo_by_hand():
    advantages = group_advantages(torch.tensor([[3.0, 1, 1, 3], [0, 0, 0, 4]]), variant="dr_grpo")
    assert advantages.tolist() == [[1, -1, -1, 1], [-1, -1, -1, 3]]


def test_rloo_by_hand():
    """The others of 6, 0, 0 average 0, 3 and 3."""
    assert group_advantages(torch.tensor([[6.0, 0, 0]]), variant="rloo").tolist() == [[6, -3, -3]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_failed_rollout_leaves_its_group(variant):
    rewards = torch.rand(50, 7, generator=torch.Generator().manual_seed(0))
    failed = torch.cat([rewards[:, :3], torch.full((50, 1), nan), rewards[:, 3:]], dim=1)
    advantages = group_advantages(failed, variant=variant)
    siblings = torch.cat([advantages[:, :3], advantages[:, 4:]], dim=1)
    torch.testing.assert_close(siblings, group_advantages(rewards, variant=variant), rtol=0, atol=0)
    assert advantages[:, 3].eq(0).all()
    assert siblings.abs().min() > 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [2, 3, 5, 7, 8, 11, 16])
def test_equal_rewards_give_exactly_zero(variant, size):
    values = torch.cat([torch.linspace(-2, 2, 1000), torch.linspace(0, 1e4, 1000)])
    for dtype in (torch.float32, torch.float64):
        rewards = values.to(dtype)[:, None].expand(-1, size)
        assert group_advantages(rewards, variant=variant).abs().max() == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_sums_that_round_differently_are_equal_rewards(variant):
    rewards = torch.tensor([[0.1 + 0.2, 0.3]], dtype=torch.float64)
    assert rewards[0, 0] != rewards[0, 1]
    assert group_advantages(rewards, variant=variant).tolist() == [[0, 0]]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rewards", [[[0.7], [nan]], [[nan, nan], [nan, nan]], [[nan, 0.4], [0.4, nan]]])
def test_a_thought_without_siblings_gets_zero(variant, rewards):
    assert group_advantages(torch.tensor(rewards), variant=variant).abs().max() == 0


def test_which_groups_have_spread():
    rewards = torch.tensor(
        [[1, 1, 1], [1, 1, 2], [nan, 1, 1], [nan, 1, 2], [nan, nan, 1], [nan] * 3, [0, 0, 0.9e-8], [0, 0, 1.1e-8]],
        dtype=torch.float64,
    )
    assert has_spread(rewards).tolist() == [False, True, False, True, False, False, False, True]


@pytest.mark.parametrize("variant", VARIANTS)
def test_groups_do_not_see_each_other(variant):
    rewards = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([group_advantages(row[None], variant=variant) for row in rewards])
    torch.testing.assert_close(group_advantages(rewards, variant=variant), alone, rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_advantages_follow_the_order_of_rewards_and_add_up_to_zero(variant):
    rewards = torch.rand(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantages = group_advantages(rewards, variant=variant)
    assert (advantages.argsort(dim=1) == rewards.argsort(dim=1)).all()
    assert advantages.sum(dim=1).abs().max() < 1e-12


def test_a_large_offset_costs_no_precision():
    rewards = torch.tensor([[3.0, 1, 1, 3]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards + 2**24), group_advantages(rewards), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "got"),
    [(torch.bfloat16, torch.float32), (torch.int64, torch.float32), (torch.float64, torch.float64)],
)
def test_precision_is_at_least_float32(given, got):
    advantages = group_advantages(torch.tensor([[3, 1, 1, 3]], dtype=given), variant="dr_grpo")
    assert advantages.dtype == got
    assert advantages.tolist() == [[1, -1, -1, 1]]


def test_outliers_of_the_batch_are_set_to_zero():
    """Ten zeros and 10: mean 10 / 11, variance (10 * 100 / 121 + 10000 / 121) / 10 = 9.0909, and 10 is 3.015 away."""
    advantages = torch.tensor([[0.0] * 10 + [10.0]])
    assert without_outliers(advantages, 3.0).tolist() == [[0.0] * 11]
    assert torch.equal(without_outliers(advantages, 3.1), advantages)
    assert torch.equal(without_outliers(advantages, float("inf")), advantages)
    shifted = advantages + 5  # the distance is from the mean, wherever it lies
    assert without_outliers(shifted, 3.0).tolist() == [[5.0] * 10 + [0.0]]
    assert without_outliers(torch.tensor([[4.0]]), 3.0).tolist() == [[4.0]]
    with pytest.raises(ValueError, match=r"outlier_stds above 0, got 0\.0; pass inf"):
        without_outliers(advantages, 0.0)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"rewards \[G, n\].*got shape \[4\]"):
        group_advantages(torch.ones(4))
    with pytest.raises(ValueError, match=r"grpo, dr_grpo, rloo; got 'ppo'"):
        group_advantages(torch.ones(1, 4), variant="ppo")
