"""What stage 2 minimises, on rollouts without a model."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import exp, nan
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from descore.losses.token_weights import Average
from descore.objectives.algorithms import Algorithm
from descore.objectives.dual import DualObjective
from descore.thinking.rollouts import Rollouts
from descore.types import Pair, Side

NUM_THOUGHTS = 4


def random_rollouts(num_pairs: int = 8, length: int = 5, num_rewards: int = 1) -> Rollouts:
    """Thoughts of 1 to 5 tokens, one in six of them failed; every third pair a tie."""
    generator = torch.Generator().manual_seed(0)
    shape = (2 * num_pairs, NUM_THOUGHTS)
    rewards = torch.rand(shape, generator=generator, dtype=torch.float64)
    rewards[torch.rand(shape, generator=generator) < 1 / 6] = nan
    lengths = torch.randint(1, length + 1, (*shape, 1), generator=generator)
    mask = (torch.arange(length) < lengths) & ~rewards.isnan()[..., None]
    preference = torch.tensor([[(pair + k) % 3 - 1.0 for k in range(num_rewards)] for pair in range(num_pairs)])
    return Rollouts(
        pairs=tuple(Pair(str(i), "", Side(""), Side(""), ()) for i in range(num_pairs)),
        preference=preference,
        groups=(),
        rewards=rewards,
        parts={},
        advantages=torch.where(rewards.isnan(), 0.0, torch.randn(shape, generator=generator, dtype=torch.float64)),
        old_logprobs=-torch.rand((*shape, length), generator=generator) * mask,
        mask=mask,
        prefixes=(),
        seen=None,
    )


def slopes_of(rollouts: Rollouts, pieces: list[list[int]], objective: DualObjective) -> list[Tensor]:
    """Sum of policy loss, KL and calibration over the pieces of a mini-batch, and their slopes."""
    generator = torch.Generator().manual_seed(1)
    logprobs = (-torch.rand(rollouts.mask.shape, generator=generator)).requires_grad_()
    rewards = torch.randn((*rollouts.mask.shape[:2], rollouts.preference.shape[1]), generator=generator)
    rewards.requires_grad_()
    shares = objective.shares(rollouts, sorted(pair for pairs in pieces for pair in pairs))
    sums = torch.zeros(3)
    for pairs in pieces:
        videos = rollouts.videos(pairs)
        reference = logprobs[videos].detach() - 0.3
        losses = objective(rollouts, pairs, shares, logprobs[videos], rewards[videos], reference)
        terms = torch.stack([losses.policy, losses.kl, losses.calibration])
        terms.sum().backward()
        sums += terms.detach()
    return [sums, logprobs.grad, rewards.grad]


@pytest.mark.parametrize("average", get_args(Average))
@pytest.mark.parametrize("pieces", [[[i] for i in range(8)], [[7, 2], [0, 5, 1], [6, 4, 3]]], ids=["eight", "three"])
def test_micro_batches_add_up_to_the_mini_batch(average, pieces):
    objective, rollouts = DualObjective(Algorithm(average=average), max_tokens=5), random_rollouts(num_rewards=2)
    whole = slopes_of(rollouts, [list(range(8))], objective)
    assert all(value != 0 for value in whole[0])
    assert_close(slopes_of(rollouts, pieces, objective), whole, atol=1e-6, rtol=1e-5)


def test_a_mini_batch_knows_nothing_of_the_others():
    """Its weights sum to 1 over its own tokens, and what lies outside has none."""
    rollouts, objective = random_rollouts(), DualObjective(Algorithm(), max_tokens=5)
    shares = objective.shares(rollouts, [1, 2])
    inside = rollouts.videos([1, 2])
    assert inside == [1, 2, 9, 10]
    assert shares.tokens[inside].sum().item() == pytest.approx(1)
    assert shares.tokens.sum().item() == pytest.approx(1)


def _note(found: list[Tensor], total: Tensor) -> Tensor:
    found.append(total)
    return total


def _replay(means: Iterator[Tensor], total: Tensor) -> Tensor:
    return next(means)


@pytest.mark.parametrize("average", get_args(Average))
def test_ranks_average_to_the_loss_of_one_process(average):
    """Two ranks with 3 and 5 pairs, unequal numbers of tokens and ties: the mean of their slopes is that of all 8."""
    rollouts, objective = random_rollouts(), DualObjective(Algorithm(average=average), max_tokens=5)
    halves = [0, 1, 2], [3, 4, 5, 6, 7]
    totals: list[list[Tensor]] = [[], []]
    for half, found in zip(halves, totals, strict=True):
        objective.shares(rollouts, half, partial(_note, found))
    means = [torch.stack(total).mean(0) for total in zip(*totals, strict=True)]
    ranks = [objective.shares(rollouts, half, partial(_replay, iter(means))) for half in halves]
    whole = objective.shares(rollouts, list(range(8)))
    assert_close((ranks[0].tokens + ranks[1].tokens) / 2, whole.tokens)
    assert_close([rank.preference / 2 for rank in ranks], [whole.preference] * 2)


def test_a_batch_without_a_rollout_that_counts_has_no_policy_loss():
    rollouts = random_rollouts()
    rollouts = replace(rollouts, mask=torch.zeros_like(rollouts.mask))
    sums, logprobs, rewards = slopes_of(rollouts, [list(range(8))], DualObjective(Algorithm(), max_tokens=5))
    assert sums[:2].tolist() == [0, 0]
    assert not logprobs.any()
    assert rewards.any()


def test_ties_and_unusable_labels_add_no_calibration_loss():
    """Also no weight: the loss of a decided pair is the same with seven others that are not, and none is not nan."""
    objective, rollouts = DualObjective(Algorithm(), max_tokens=5), random_rollouts()
    everyone, decided = [list(range(8))], torch.tensor([[1.0], [0], [nan], [0], [0], [nan], [0], [0]])
    only = replace(rollouts, preference=decided)
    sums, _, slopes = slopes_of(only, everyone, objective)
    assert slopes.abs().sum((1, 2)).nonzero()[:, 0].tolist() == [0, 8]
    assert sums[2] == slopes_of(only, [[0]], objective)[0][2] > 0
    sums, logprobs, slopes = slopes_of(replace(rollouts, preference=decided * 0), everyone, objective)
    assert sums[2] == 0
    assert not slopes.any()
    assert logprobs.any(), "the policy still learns"


def test_several_rewards_by_hand():
    """Two rewards, two pairs, n = 4 thoughts alike: A by 1 and a tie, B by 2 and A by 0, so 3 decided preferences.

    Loss (log(1 + e^-1) + log(1 + e^-2) + log 2) / 3, for every thought adds the same.
    """
    rollouts = replace(random_rollouts(2), preference=torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    objective, reward_a = DualObjective(Algorithm(), max_tokens=5), torch.tensor([[1.5, 9.0], [0.0, 3.0]])
    reward_b = torch.tensor([[0.5, 1.0], [2.0, 3.0]])
    rewards = torch.cat([reward_a, reward_b])[:, None].expand(4, NUM_THOUGHTS, 2)
    losses = objective(rollouts, [0, 1], objective.shares(rollouts, [0, 1]), rollouts.old_logprobs, rewards)
    assert losses.calibration.item() == pytest.approx((0.3132617 + 0.1269280 + 0.6931472) / 3, rel=1e-6)
    assert losses.kl == 0


def test_the_kl_is_a_mean_over_the_tokens_that_count():
    """log p is 0.3 above the reference everywhere: e^-0.3 - 1 + 0.3; below the mask nothing is read."""
    rollouts, objective = random_rollouts(), DualObjective(Algorithm(), max_tokens=5)
    pairs, logprobs = list(range(8)), rollouts.old_logprobs
    reference = (logprobs - 0.3).masked_fill(~rollouts.mask, 7.0)
    shares = objective.shares(rollouts, pairs)
    losses = objective(rollouts, pairs, shares, logprobs, torch.zeros(16, 4, 1), reference)
    assert losses.kl.item() == pytest.approx(exp(-0.3) - 0.7, rel=1e-5)
    assert losses.metrics["kl"].item() == pytest.approx(exp(-0.3) - 0.7, rel=1e-5)
    squares = replace(objective, kl_estimator="mse")(
        rollouts, pairs, shares, logprobs, torch.zeros(16, 4, 1), reference
    )
    assert squares.kl.item() == pytest.approx(0.045, rel=1e-5)


def test_pairs_are_any_sequence():
    rollouts, objective = random_rollouts(), DualObjective(Algorithm(), max_tokens=5)
    expected = objective.shares(rollouts, [1, 2])
    assert_close(objective.shares(rollouts, (1, 2)).preference, expected.preference)
