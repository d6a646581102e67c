"""Stage 1's objective by hand: every option reaches the loss.

With the margin d of the preferred video, Bradley-Terry gives log(1 + e^-d): 0.3133 for d = 1, and 1.3133 for d = -1.
"""

from __future__ import annotations

from math import e, log, nan

import pytest
import torch
from torch import Tensor

from descore.losses.pair_losses import Labels
from descore.objectives.preference import PreferenceObjective

RIGHT, WRONG = log(1 + 1 / e), log(1 + e)
EMPTY = torch.empty(0)


def labels(*preferences: float, mos: tuple[float, float] = (nan, nan)) -> Labels:
    column = torch.tensor(preferences)[:, None]
    return Labels(column, *(torch.full_like(column, value) for value in mos))


def rewards(*margins: list[float]) -> Tensor:
    """[2, N, n, 1] of pairs with one margin for every branch; B has 0."""
    a = torch.tensor(margins)[..., None]
    return torch.stack([a, torch.zeros_like(a)])


def total(objective: PreferenceObjective, *margins: list[float], logprobs: Tensor = EMPTY, **label: object) -> float:
    return objective(rewards(*margins), logprobs, labels(1.0, **label)).total.item()


def test_theta_is_that_of_the_tie_loss():
    """-log sigmoid(1 - log theta) = log(1 + theta / e)."""
    for theta in (3.0, 7.0):
        assert total(PreferenceObjective("rao_kupper", theta=theta), [1.0]) == pytest.approx(log(1 + theta / e))


def test_margin_is_that_of_the_margin_loss():
    assert total(PreferenceObjective("constant_margin", margin=0.25), [1.25]) == pytest.approx(RIGHT)
    assert total(PreferenceObjective("constant_margin", margin=2.0), [1.0]) == pytest.approx(WRONG)


@pytest.mark.parametrize(
    ("loss", "expected"), [("margin", RIGHT), ("scaled", 2 * log(1 + e**-3)), ("mse", ((3 - 4) ** 2 + 2**2) / 2)]
)
def test_losses_of_opinion_scores_read_them(loss, expected):
    """Rewards 3 and 0, opinion scores 4 and 2."""
    assert total(PreferenceObjective(loss), [3.0], mos=(4.0, 2.0)) == pytest.approx(expected)


def test_both_weighs_the_branch_without_a_thought_by_the_probability_of_the_mask():
    """The margin is 1 with the thought and -1 without."""
    objective = PreferenceObjective(cot_masking="both", cot_mask_prob=0.3)
    assert total(objective, [1.0, -1.0]) == pytest.approx(0.7 * RIGHT + 0.3 * WRONG)


def test_a_branch_as_it_was_drawn_counts_in_full():
    assert total(PreferenceObjective(cot_mask_prob=0.3), [1.0]) == pytest.approx(RIGHT)


def test_the_weights_of_both_losses():
    """The mean of the log-probabilities is -2."""
    objective = PreferenceObjective(preference_weight=3.0, language_model_weight=0.5)
    found = objective(rewards([1.0]), torch.tensor([-1.0, -3.0]), labels(1.0))
    assert objective.reads_logprobs
    assert found.total.item() == pytest.approx(3 * RIGHT + 0.5 * 2)
    assert (found.preference.item(), found.language_model.item()) == pytest.approx((RIGHT, 2))


def test_a_loss_without_a_weight_is_not_computed():
    thoughts_alone = PreferenceObjective(preference_weight=0.0, language_model_weight=1.0)
    found = thoughts_alone(rewards([nan]), torch.tensor([-2.0]), labels(1.0))
    assert (found.total.item(), found.preference) == (2, None)
    objective = PreferenceObjective()
    assert not objective.reads_logprobs
    assert objective(rewards([1.0]), torch.tensor([nan]), labels(1.0)).language_model is None


def test_a_tie_does_not_dilute_the_mean_of_any_branch():
    """Pairs with the margins 1 and -1 with a thought, and -1 and 1 without; the third pair is a tie."""
    objective = PreferenceObjective(cot_masking="both", cot_mask_prob=0.25)
    found = objective(rewards([1.0, -1.0], [1.0, -1.0], [9.0, 9.0]), EMPTY, labels(1.0, 1.0, 0.0))
    assert found.total.item() == pytest.approx(0.75 * RIGHT + 0.25 * WRONG)


def test_every_reward_has_its_own_label():
    """Two rewards with a margin of 1: A is preferred by one, B by the other."""
    both = torch.ones(2, 1, 1, 2) * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    unknown = torch.full((1, 2), nan)
    found = PreferenceObjective()(both, EMPTY, Labels(torch.tensor([[1.0, -1.0]]), unknown, unknown))
    assert found.total.item() == pytest.approx((RIGHT + WRONG) / 2)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match=f"cot_mask_prob is {probability}; expected a probability"):
        PreferenceObjective(cot_mask_prob=probability)
