from functools import partial
from math import exp, log
from typing import get_args

import pytest
import torch

from descore.losses.pair_losses import Labels, PairLossName, mean_over_usable, pair_loss
from descore.losses.preference import (
    bradley_terry_loss,
    constant_margin_loss,
    margin_loss,
    mse_loss,
    rao_kupper_loss,
    scaled_loss,
)

NAN = float("nan")
NAMES = get_args(PairLossName)


def labels(preference: list[float], mos_a: list[float] | None = None, mos_b: list[float] | None = None) -> Labels:
    unknown = [NAN] * len(preference)
    return Labels(torch.tensor(preference), torch.tensor(mos_a or unknown), torch.tensor(mos_b or unknown))


def random_labels(*shape: int) -> Labels:
    generator = torch.Generator().manual_seed(0)
    preference = torch.randint(-1, 2, shape, generator=generator).float()
    return Labels(preference, torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))


def random_rewards(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    reward_a, reward_b = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).unbind()
    return reward_a, reward_b


def test_bradley_terry_by_hand():
    """r_A - r_B = log 3, sigmoid(log 3) = 3/4: A preferred -log(3/4), B preferred -log(1/4), tie and unknown 0."""
    loss = bradley_terry_loss(torch.full((4,), 1 + log(3)), torch.ones(4), torch.tensor([1, -1, 0, NAN]))
    torch.testing.assert_close(loss, torch.tensor([-log(3 / 4), -log(1 / 4), 0, 0]))


def test_rao_kupper_by_hand():
    """Theta = 5 and r_A - r_B = log 5: P(A) = sigmoid(0) = 13/26, P(B) = sigmoid(-2 log 5) = 1/26, tie the other 12/26.

    By the formula, P(tie) = (5^2 - 1) * 13/26 * 1/26 = 12/26.
    """
    loss = rao_kupper_loss(torch.full((4,), log(5)), torch.zeros(4), torch.tensor([1, -1, 0, NAN]))
    torch.testing.assert_close(loss, torch.tensor([-log(13 / 26), -log(1 / 26), -log(12 / 26), 0]))


def test_rao_kupper_probabilities_add_up_to_one():
    difference, zero = torch.linspace(-8, 8, 33), torch.zeros(33)
    for theta in (1.01, 2.0, 5.0):
        loss = torch.stack([rao_kupper_loss(difference, zero, torch.full((33,), p), theta) for p in (1.0, -1.0, 0.0)])
        torch.testing.assert_close(torch.exp(-loss).sum(0), torch.ones(33))


def test_margin_by_hand():
    """The opinion scores differ by 4 - 2.5 = 1.5 and the rewards by log 3 + 1.5.

    A preferred: log 3 + 1.5 - 1.5 = log 3, sigmoid 3/4. B preferred: -log 3 - 1.5 + 1.5 = -log 3, sigmoid 1/4.
    """
    reward_a, preference = torch.full((4,), log(3) + 1.5), torch.tensor([1, -1, 0, NAN])
    loss = margin_loss(reward_a, torch.zeros(4), preference, torch.full((4,), 4.0), torch.full((4,), 2.5))
    torch.testing.assert_close(loss, torch.tensor([-log(3 / 4), -log(1 / 4), 0, 0]))


def test_constant_margin_by_hand():
    """The rewards differ by log 3 + 0.57. A preferred: log 3, sigmoid 3/4. B: -log 3 - 1.14, 1 / (1 + 3 e^1.14)."""
    reward_a, preference = torch.full((4,), log(3) + 0.57), torch.tensor([1, -1, 0, NAN])
    loss = constant_margin_loss(reward_a, torch.zeros(4), preference)
    torch.testing.assert_close(loss, torch.tensor([-log(3 / 4), log(1 + 3 * exp(1.14)), 0, 0]))


def test_scaled_by_hand():
    """The opinion scores differ by 1.5: A preferred 1.5 * -log(3/4), B preferred -1.5 * -log(1/4)."""
    reward_a, preference = torch.full((4,), log(3)), torch.tensor([1, -1, 0, NAN])
    loss = scaled_loss(reward_a, torch.zeros(4), preference, torch.full((4,), 4.0), torch.full((4,), 2.5))
    torch.testing.assert_close(loss, torch.tensor([-1.5 * log(3 / 4), 1.5 * log(1 / 4), 0, 0]))


@pytest.mark.parametrize("loss", [margin_loss, scaled_loss])
def test_an_unknown_opinion_score_gives_zero(loss):
    mos_a, mos_b = torch.tensor([NAN, 1.0, NAN]), torch.tensor([1.0, NAN, NAN])
    assert loss(torch.ones(3), torch.zeros(3), torch.ones(3), mos_a, mos_b).tolist() == [0, 0, 0]


def test_mse_by_hand():
    """((1 - 3)^2 + (2 - 2.5)^2) / 2 = (4 + 0.25) / 2 = 2.125; without the score of B, 4 / 2 = 2."""
    loss = mse_loss(torch.ones(2), torch.full((2,), 2.0), torch.full((2,), 3.0), torch.tensor([2.5, NAN]))
    torch.testing.assert_close(loss, torch.tensor([2.125, 2.0]))


def test_mean_counts_usable_pairs_only():
    """(1 + 4) / 2 = 2.5; the nan is masked, not multiplied by 0."""
    mean = mean_over_usable(torch.tensor([1.0, NAN, 4.0]), torch.tensor([True, False, True]))
    torch.testing.assert_close(mean, torch.tensor(2.5))


def test_each_name_reaches_its_function():
    functions = {
        "bradley_terry": lambda a, b, said: bradley_terry_loss(a, b, said.preference),
        "rao_kupper": lambda a, b, said: rao_kupper_loss(a, b, said.preference, theta=3.0),
        "margin": lambda a, b, said: margin_loss(a, b, said.preference, said.mos_a, said.mos_b),
        "constant_margin": lambda a, b, said: constant_margin_loss(a, b, said.preference, margin=0.2),
        "scaled": lambda a, b, said: scaled_loss(a, b, said.preference, said.mos_a, said.mos_b),
        "mse": lambda a, b, said: mse_loss(a, b, said.mos_a, said.mos_b),
    }
    assert set(functions) == set(NAMES)
    (reward_a, reward_b), said = random_rewards(16), random_labels(16)
    for name, function in functions.items():
        loss = pair_loss(name, theta=3.0, margin=0.2)(reward_a, reward_b, said)
        torch.testing.assert_close(loss, function(reward_a, reward_b, said), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bradley_terry", [True, False, False, True]),
        ("rao_kupper", [True, True, False, True]),
        ("margin", [True, False, False, False]),
        ("constant_margin", [True, False, False, True]),
        ("scaled", [True, False, False, False]),
        ("mse", [True, True, True, False]),
    ],
)
def test_which_pairs_count(name, expected):
    said = labels([1, 0, NAN, -1], mos_a=[1, 2, 3, 4], mos_b=[1, 2, 3, NAN])
    assert pair_loss(name).usable(said).tolist() == expected


@pytest.mark.parametrize("name", NAMES)
def test_unusable_pairs_do_not_dilute(name):
    """The gradient of a pair is the same with ties, unknown labels and half-known opinion scores beside it."""
    unusable = labels([NAN, NAN, NAN], mos_a=[NAN, 1, NAN], mos_b=[1, NAN, NAN])
    if name not in {"rao_kupper", "mse"}:
        unusable = unusable._replace(preference=torch.tensor([NAN, 0.0, 0.0]))
    loss, said = pair_loss(name), labels([1, -1], mos_a=[2, 3], mos_b=[1, 5])
    both = Labels(*(torch.cat(columns) for columns in zip(said, unusable, strict=True)))
    reward_a, reward_b = (reward.requires_grad_() for reward in random_rewards(5))
    gradients = []
    for batch in (said, both):
        count = len(batch.preference)
        mean = mean_over_usable(loss(reward_a[:count], reward_b[:count], batch), loss.usable(batch))
        gradients.append(torch.autograd.grad(mean, (reward_a, reward_b)))
    for alone, beside in zip(*gradients, strict=True):
        torch.testing.assert_close(beside, alone, rtol=0, atol=0)
        assert alone[:2].abs().min() > 0
        assert beside[2:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_usable_pairs_is_zero_with_a_zero_gradient(name):
    loss, said, reward = pair_loss(name), labels([NAN, NAN]), torch.ones(2, requires_grad=True)
    mean = mean_over_usable(loss(reward, torch.zeros(2), said), loss.usable(said))
    mean.backward()
    assert mean.item() == 0
    assert reward.grad.tolist() == [0, 0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("difference", [-1e4, 1e4])
def test_extreme_differences_stay_finite(name, difference):
    reward = torch.full((3,), difference, requires_grad=True)
    loss = pair_loss(name)(reward, torch.zeros(3), labels([1, -1, 0], mos_a=[3, 2, 1], mos_b=[1, 2, 3]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert reward.grad.isfinite().all()


def test_a_wrong_order_costs_its_difference():
    """-log sigmoid(-d) approaches d, where log(sigmoid) would be infinite: 10000 at d = 10000, with gradient -1."""
    reward = torch.tensor([-1e4], requires_grad=True)
    loss = bradley_terry_loss(reward, torch.zeros(1), torch.ones(1))
    loss.backward()
    assert loss.item() == 1e4
    assert reward.grad.item() == -1


@pytest.mark.parametrize("loss", [bradley_terry_loss, rao_kupper_loss, partial(constant_margin_loss, margin=1.0)])
def test_preferring_a_falls_and_preferring_b_rises_with_the_difference(loss):
    difference, zero = torch.linspace(-10, 10, 101), torch.zeros(101)
    assert (loss(difference, zero, torch.ones(101)).diff() < 0).all()
    assert (loss(difference, zero, -torch.ones(101)).diff() > 0).all()


def test_a_tie_wants_equal_rewards():
    difference = torch.linspace(-10, 10, 101)
    loss = rao_kupper_loss(difference, torch.zeros(101), torch.zeros(101))
    assert loss.argmin() == 50
    assert (loss[50:].diff() > 0).all()
    torch.testing.assert_close(loss, loss.flip(0))


@pytest.mark.parametrize("name", NAMES)
def test_swapping_the_videos_changes_nothing(name):
    (reward_a, reward_b), said = random_rewards(64), random_labels(64)
    swapped = Labels(-said.preference, said.mos_b, said.mos_a)
    loss = pair_loss(name)
    torch.testing.assert_close(loss(reward_b, reward_a, swapped), loss(reward_a, reward_b, said))


@pytest.mark.parametrize("name", NAMES)
def test_reward_dimensions_are_elementwise(name):
    (reward_a, reward_b), said = random_rewards(8, 3), random_labels(8, 3)
    loss = pair_loss(name)
    columns = [loss(reward_a[:, k], reward_b[:, k], Labels(*(label[:, k] for label in said))) for k in range(3)]
    torch.testing.assert_close(loss(reward_a, reward_b, said), torch.stack(columns, dim=1))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_rewards_are_compared_in_float32(name):
    """256 - 0.5 = 255.5 needs nine bits, so bfloat16 would round the difference to 256."""
    reward_a, reward_b = torch.tensor([256.0]), torch.tensor([0.5])
    said, loss = labels([-1], mos_a=[1.0], mos_b=[2.5]), pair_loss(name)
    half = loss(reward_a.bfloat16(), reward_b.bfloat16(), Labels(*(label.bfloat16() for label in said)))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(reward_a, reward_b, said), rtol=0, atol=0)


def test_whole_number_labels_are_accepted():
    loss = bradley_terry_loss(torch.ones(3), torch.zeros(3), torch.tensor([1, 0, -1]))
    torch.testing.assert_close(loss, bradley_terry_loss(torch.ones(3), torch.zeros(3), torch.tensor([1.0, 0.0, -1.0])))


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"bradley_terry, rao_kupper.*got 'bt'"):
        pair_loss("bt")
    with pytest.raises(ValueError, match=r"theta above 1, got 1\.0.*bradley_terry_loss"):
        rao_kupper_loss(torch.ones(1), torch.ones(1), torch.ones(1), theta=1.0)
