"""Preference accuracy with and without ties, against counting by brute force."""

import math
import random
import time
from dataclasses import replace

import pytest
import torch

from descore.metrics import accuracy_at, by_group, calls, preference_accuracy

NAN = float("nan")


def brute_force(margin: list[float], preference: list[int]) -> tuple[float, float, float]:
    """Return without_ties, with_ties and its threshold by trying every threshold on every pair."""

    def share(threshold: float) -> float:
        calls = [0 if abs(m) <= threshold else math.copysign(1, m) for m in margin]
        calls = [NAN if m == 0 and call else call for m, call in zip(margin, calls, strict=True)]
        return sum(call == p for call, p in zip(calls, preference, strict=True)) / len(margin)

    with_ties, threshold = max((share(t), -t) for t in {-1.0, *map(abs, margin)})
    decided = [m * p > 0 for m, p in zip(margin, preference, strict=True) if p]
    return sum(decided) / len(decided) if decided else NAN, with_ties, -threshold


def random_set(rng: random.Random) -> tuple[list[float], list[int]]:
    size = rng.randint(1, 14)
    draw = rng.choice([lambda: float(rng.randint(-2, 2)), lambda: rng.gauss(0, 1), lambda: rng.randint(-4, 4) / 3])
    return [draw() for _ in range(size)], [rng.choice([-1, 0, 1, 1]) for _ in range(size)]


def test_by_hand():
    """Decided pairs 3 > 0 and -2 < 0 are right, -0.5 is wrong: 2/3. Ties have margins 0.4 and 1.

    Right out of 5 with threshold -1: 2, 0.4: 3, 0.5: 3, 1: 4, 2: 3, 3: 2. So 4/5 at threshold 1.
    """
    found = preference_accuracy(torch.tensor([3, -2, -0.5, 0.4, 1]), torch.tensor([1, -1, 1, 0, 0]))
    assert found.without_ties == 2 / 3
    assert found.with_ties == 4 / 5
    assert found.tie_threshold == 1
    assert (found.num_pairs, found.num_decided, found.num_failed, found.num_unusable) == (5, 3, 0, 0)


def test_agrees_with_brute_force():
    rng = random.Random(0)
    for _ in range(1000):
        margin, preference = random_set(rng)
        found = preference_accuracy(margin, preference)
        expected = brute_force(margin, preference)
        assert (found.without_ties, found.with_ties, found.tie_threshold) == pytest.approx(expected, nan_ok=True, abs=0)
        assert found.num_pairs == len(margin)
        assert found.num_decided == sum(p != 0 for p in preference)


def test_row_order_changes_nothing():
    """Two pairs, equal margins, one of them a tie: 1/2 in either order. Then 2,000 pairs with whole-number scores."""
    assert preference_accuracy([1, 1], [0, 1]).with_ties == 0.5
    assert preference_accuracy([1, 1], [1, 0]).with_ties == 0.5
    generator = torch.Generator().manual_seed(0)
    margin = torch.randint(-3, 4, (2000,), generator=generator).float()
    preference = torch.randint(-1, 2, (2000,), generator=generator)
    found = preference_accuracy(margin, preference)
    ties_first = preference.abs().argsort()
    for order in (ties_first, ties_first.flip(0), torch.randperm(2000, generator=generator)):
        assert preference_accuracy(margin[order], preference[order]) == found


def test_calling_no_ties_is_a_candidate():
    found = preference_accuracy([1, -2, 3], [1, -1, 1])
    assert (found.with_ties, found.without_ties, found.tie_threshold) == (1, 1, -1)


def test_zero_margin_is_wrong_for_a_decided_pair_and_can_be_a_tie():
    found = preference_accuracy([0, 0, 2], [1, 0, 1])
    assert (found.without_ties, found.with_ties, found.tie_threshold) == (1 / 2, 2 / 3, 0)


def test_failed_and_unlabelled_pairs_are_counted_and_left_out():
    clean = preference_accuracy([1, -1, 0.5], [1, 1, 0])
    found = preference_accuracy([1, NAN, -1, 2, 0.5, NAN, NAN], [1, -1, 1, NAN, 0, 0, NAN])
    assert found == replace(clean, num_failed=2, num_unusable=2)


def test_nothing_to_count_is_nan():
    for margin, preference in ([], []), ([NAN], [1]), ([1], [NAN]):
        found = preference_accuracy(margin, preference)
        assert math.isnan(found.with_ties)
        assert math.isnan(found.without_ties)
        assert (found.num_pairs, found.num_decided) == (0, 0)


def test_only_ties_have_no_accuracy_without_ties():
    """Called a tie up to the largest |margin|, both are right."""
    found = preference_accuracy([1, -2], [0, 0])
    assert math.isnan(found.without_ties)
    assert (found.with_ties, found.tie_threshold) == (1, 2)
    assert (found.num_pairs, found.num_decided) == (2, 0)


def test_close_margins_stay_apart_in_float64():
    assert preference_accuracy([1, 1 + 1e-12], [0, 1]).with_ties == 1


def test_margins_may_carry_a_gradient_and_be_bfloat16():
    margin = torch.tensor([1.0, -1.0], requires_grad=True).bfloat16()
    assert preference_accuracy(margin, torch.tensor([1, 1])).without_ties == 0.5


@pytest.mark.parametrize(("margin", "preference"), [([3, 1], [3]), ([4, 2], [4, 2])])
def test_other_shapes_are_errors(margin, preference):
    with pytest.raises(ValueError, match=r"one shape \[N\], got .*one reward dimension at a time"):
        preference_accuracy(torch.ones(margin), torch.ones(preference))


def test_a_label_of_another_kind_is_an_error():
    """The published tables write 22 for an invalid label; as a number it would count as a wrong call."""
    with pytest.raises(ValueError, match=r"1 \(A\), -1 \(B\), 0 \(tie\) or nan .*, got 22 in row 1"):
        preference_accuracy([1, 1], [1, 22])


@pytest.mark.parametrize(
    ("threshold", "expected"), [(-1, 2 / 5), (0.4, 3 / 5), (0.5, 3 / 5), (1, 4 / 5), (2, 3 / 5), (3, 2 / 5)]
)
def test_accuracy_at_a_threshold_by_hand(threshold, expected):
    """The pairs of `test_by_hand`, and two that do not count."""
    margin, preference = [3, -2, -0.5, 0.4, 1, NAN, 1], [1, -1, 1, 0, 0, 1, NAN]
    assert accuracy_at(margin, preference, threshold) == expected


def test_accuracy_at_the_best_threshold_is_accuracy_with_ties():
    rng = random.Random(1)
    for _ in range(200):
        margin, preference = random_set(rng)
        found = preference_accuracy(margin, preference)
        assert accuracy_at(margin, preference, found.tie_threshold) == found.with_ties
        assert all(accuracy_at(margin, preference, abs(m)) <= found.with_ties for m in margin)


@pytest.mark.parametrize(("size", "tuned", "fixed"), [(30, 0.44, 1 / 3), (1000, 0.354, 1 / 3)])
def test_a_threshold_tuned_on_the_test_set_flatters(size, tuned, fixed):
    """Rewards and labels are drawn apart: one in three is right, but for the threshold that fits these very pairs."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(size, generator=generator), torch.randint(-1, 2, (size,), generator=generator)

    found = []
    for _ in range(300):
        same = preference_accuracy(*draw())
        found.append((same.with_ties, accuracy_at(*draw(), same.tie_threshold)))
    assert torch.tensor(found).mean(0).tolist() == pytest.approx([tuned, fixed], abs=0.015)


def test_accuracy_at_a_threshold_over_nothing_is_nan():
    assert math.isnan(accuracy_at([NAN], [1], 0.5))


def test_calls_by_hand():
    """Without a threshold the tie of people does not count and a margin of 0 is wrong; with 0.5 both up to it tie."""
    margin, preference = [3, -2, 0, 0.5, NAN, 1], [1, 1, -1, 0, 1, NAN]
    torch.testing.assert_close(calls(margin, preference), double(1, 0, 0, NAN, NAN, NAN), equal_nan=True)
    torch.testing.assert_close(calls(margin, preference, 0.5), double(1, 0, 0, 1, NAN, NAN), equal_nan=True)
    torch.testing.assert_close(calls(margin, preference, 0), double(1, 0, 0, 0, NAN, NAN), equal_nan=True)
    margin, preference = [0, 1, 3, NAN], [0, 0, 1, 1]
    torch.testing.assert_close(calls(margin, preference, -1), double(0, 0, 1, NAN), equal_nan=True)


def test_the_mean_of_calls_is_the_accuracy():
    rng = random.Random(2)
    for _ in range(200):
        margin, preference = random_set(rng)
        found = preference_accuracy(margin, preference)
        assert calls(margin, preference).nanmean().item() == pytest.approx(found.without_ties, nan_ok=True, abs=1e-15)
        for threshold in (found.tie_threshold, 0.0):
            with_ties = accuracy_at(margin, preference, threshold)
            assert calls(margin, preference, threshold).mean().item() == pytest.approx(with_ties, abs=1e-15)


def test_groups_by_hand():
    """Sora calls its margin of 1 a tie, kling its margin of 2; one threshold for both gets 3/4 of the pairs right."""
    margin, preference = [1, 2, 3, 2, NAN], [0, 1, 1, 0, 1]
    found = by_group(margin, preference, ["sora", "sora", "kling", "kling", "sora"])
    assert list(found) == ["kling", "sora"]
    assert (found["kling"].with_ties, found["kling"].tie_threshold, found["kling"].num_failed) == (1, 2, 0)
    assert (found["sora"].with_ties, found["sora"].tie_threshold, found["sora"].num_failed) == (1, 1, 1)
    assert preference_accuracy(margin, preference).with_ties == 3 / 4


def test_groups_of_nothing_are_none():
    assert by_group([], [], []) == {}


def test_groups_are_named_for_every_row():
    with pytest.raises(ValueError, match="expected 2 groups, one for each row, got 1"):
        by_group([1, 2], [1, 1], ["sora"])


@pytest.mark.parametrize("values", ["continuous", "whole numbers", "no ties"])
def test_a_million_pairs(values):
    """Half a second on one core; trying every threshold on every pair would be 10^12 comparisons."""
    generator = torch.Generator().manual_seed(0)
    margin = torch.randn(1_000_000, generator=generator)
    margin = margin.round() if values == "whole numbers" else margin
    preference = torch.randint(-1, 2, margin.shape, generator=generator)
    preference = preference.where(preference != 0, 1) if values == "no ties" else preference
    start = time.perf_counter()
    found = preference_accuracy(margin, preference)
    assert time.perf_counter() - start < 6
    assert found.num_pairs == 1_000_000
    assert found.with_ties == accuracy_at(margin, preference, found.tie_threshold)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
