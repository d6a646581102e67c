"""Our exact search for the tie threshold against the published sweep, case by case as docs/evaluation.md lists them."""

import itertools
import math
import random

import pytest

from descore.metrics import preference_accuracy

NAN = float("nan")


def published_sweep(preference: list[float], margin: list[float]) -> float:
    """Restate the published rule: call ties one pair at a time, by |margin|, and keep the best share after each."""

    def right(row: int, tie: bool) -> bool:
        return preference[row] == 0 if tie else preference[row] * margin[row] > 0

    num_right, best = sum(right(row, tie=False) for row in range(len(margin))), -math.inf
    for row in sorted(range(len(margin)), key=lambda row: abs(margin[row])):
        num_right += right(row, tie=True) - right(row, tie=False)
        best = max(best, num_right / len(margin))
    return best


def published_without_ties(preference: list[float], margin: list[float]) -> float:
    decided = [(label, m) for label, m in zip(preference, margin, strict=True) if label != 0]
    return sum(label * m > 0 for label, m in decided) / len(decided)


def with_ties(preference: list[float], margin: list[float]) -> float:
    return preference_accuracy(margin, preference).with_ties


def test_distinct_margins_are_never_below_and_differ_by_the_missing_state_alone():
    rng = random.Random(0)
    num_higher = 0
    for _ in range(300):
        size = rng.randint(1, 40)
        margin, preference = [rng.gauss(0, 1) for _ in range(size)], [rng.choice([-1, 0, 1]) for _ in range(size)]
        if rng.random() < 0.5:
            preference = [
                math.copysign(p, m) if rng.random() < 0.7 else p for p, m in zip(preference, margin, strict=True)
            ]
        ours, theirs = with_ties(preference, margin), published_sweep(preference, margin)
        calling_none = sum(p * m > 0 for p, m in zip(preference, margin, strict=True)) / size
        assert ours == max(theirs, calling_none) >= theirs
        num_higher += ours > theirs
    assert 10 < num_higher < 290


def test_calling_nothing_a_tie_is_missing():
    assert published_sweep([1, 1, 1], [1, 2, 3]) == 2 / 3
    assert with_ties([1, 1, 1], [1, 2, 3]) == 1


def test_equal_margins_depend_on_row_order():
    assert [published_sweep(order, [1, 1]) for order in ([0, 1], [1, 0])] == [1.0, 0.5]
    assert [with_ties(order, [1, 1]) for order in ([0, 1], [1, 0])] == [0.5, 0.5]


def whole_number_pairs() -> list[tuple[float, float]]:
    """2,000 pairs of videos with scores 0 to 4, and people who prefer by the margin and noise."""
    rng = random.Random(0)
    margin = [rng.randint(0, 4) - rng.randint(0, 4) for _ in range(2000)]
    felt = [m + rng.gauss(0, 1.5) for m in margin]
    return [(0 if abs(f) < 0.7 else math.copysign(1, f), m) for f, m in zip(felt, margin, strict=True)]


def test_whole_number_scores_can_be_inflated():
    pairs = whole_number_pairs()
    shuffles = [random.Random(seed).sample(pairs, len(pairs)) for seed in range(20)]
    ties_first = sorted(pairs, key=lambda pair: pair[0] != 0)
    shuffled = [published_sweep(*zip(*order, strict=True)) for order in shuffles]
    assert (min(shuffled), max(shuffled)) == (0.686, 0.6875)
    assert published_sweep(*zip(*ties_first, strict=True)) == 0.782
    assert {with_ties(*zip(*order, strict=True)) for order in (*shuffles, ties_first, ties_first[::-1])} == {0.686}


def test_a_missing_label_is_a_wrong_call():
    preference, margin = [1, NAN, 1, -1], [1, 2, 3, -4]
    assert (published_sweep(preference, margin), published_without_ties(preference, margin)) == (0.5, 0.75)
    found = preference_accuracy(margin, preference)
    assert (found.with_ties, found.without_ties, found.num_pairs, found.num_unusable) == (1, 1, 3, 1)


def test_a_failed_score_breaks_the_sort():
    """The same five pairs in every order."""
    pairs = [(0, 0.1), (1, 2.0), (-1, NAN), (0, 0.2), (1, 3.0)]
    orders = [list(zip(*order, strict=True)) for order in itertools.permutations(pairs)]
    assert {published_sweep(preference, margin) for preference, margin in orders} == {0.4, 0.6, 0.8}
    (ours,) = {preference_accuracy(margin, preference) for preference, margin in orders}
    assert (ours.with_ties, ours.num_pairs, ours.num_failed) == (1, 4, 1)


def test_nothing_and_only_ties():
    assert published_sweep([], []) == -math.inf
    assert math.isnan(with_ties([], []))
    with pytest.raises(ZeroDivisionError):
        published_without_ties([0, 0], [1, 2])
    assert math.isnan(preference_accuracy([1, 2], [0, 0]).without_ties)
    assert with_ties([0, 0], [1, 2]) == 1
