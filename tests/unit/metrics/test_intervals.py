import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import binom

from descore.metrics import bootstrap_interval, intervals, paired_test, wilson_interval

NAN = float("nan")


def test_interval_by_hand():
    """8 of 10, z^2 = 3.8415: centre (0.8 + 0.19207) / 1.38415 = 0.71674.

    Half width 1.95996 * sqrt(0.016 + 0.0096036) / 1.38415 = 0.22658, so 0.49016 to 0.94332.
    """
    assert wilson_interval(0.8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)


def test_interval_stays_between_zero_and_one():
    """With 0 of n right the bounds are 0 and z^2 / (n + z^2): 3.8415 / 13.8415 = 0.27754 for n = 10."""
    assert wilson_interval(0.0, 10) == pytest.approx((0, 0.27754), abs=1e-5)
    assert wilson_interval(1.0, 10) == pytest.approx((0.72246, 1), abs=1e-5)
    assert all(math.isnan(bound) for bound in wilson_interval(NAN, 0))


def test_bootstrap_by_hand():
    """Of two values, 0 and 1, a resample's mean is 0 or 1 once in four each, so both tails are reached."""
    assert bootstrap_interval([0, 1]) == (0, 1)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_bootstrap_of_calls_is_binomial():
    """80 of 100 right: resampled means are Binomial(100, 0.8) / 100, with quantiles 0.72 and 0.88."""
    expected = binom.ppf([0.025, 0.975], 100, 0.8) / 100
    assert list(expected) == [0.72, 0.88]
    assert bootstrap_interval([1] * 80 + [0] * 20, resamples=50_000) == pytest.approx(tuple(expected), abs=0.011)


def test_clusters_that_agree_within_count_as_one_value_each():
    """Ten prompts with 100 pairs each, 8 all right and 2 all wrong, are ten values: Binomial(10, 0.8) / 10."""
    values, prompts = [k < 8 for k in range(10)] * 100, [f"prompt {k}" for k in range(10)] * 100
    assert bootstrap_interval(values, prompts) == (0.5, 1.0)
    low, high = bootstrap_interval(values)
    assert 0.77 < low < high < 0.83


def test_clusters_of_uneven_size_by_hand():
    """{1} and {0, 0, 0}: two draws give 1, 1/4, 1/4 or 0; the mean of two clusters' means would be 1/2."""
    values, clusters = [1, 0, 0, 0], ["x", "y", "y", "y"]
    sums, sizes = intervals._clusters(torch.tensor(values, dtype=torch.float64), clusters)
    means = intervals._resampled_means(sums, sizes, 4000, 0)
    found, counts = np.unique(means, return_counts=True)
    assert list(found) == [0, 0.25, 1]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_bootstrap_against_the_plain_way():
    """Clusters drawn one by one, their values laid end to end."""
    rng = random.Random(0)
    clusters = [rng.randrange(12) for _ in range(80)]
    values = [rng.gauss(cluster / 4, 1) for cluster in clusters]
    members = [[v for v, c in zip(values, clusters, strict=True) if c == cluster] for cluster in set(clusters)]
    means = []
    for _ in range(5000):
        drawn = list(itertools.chain.from_iterable(rng.choices(members, k=len(members))))
        means.append(sum(drawn) / len(drawn))
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(values, clusters, resamples=5000) == pytest.approx(tuple(expected), abs=0.06)
    low, high = bootstrap_interval(values)
    assert high - low < 0.7 * (expected[1] - expected[0]), "values taken as independent look surer than they are"


def test_the_interval_holds_the_truth_95_times_in_100():
    """Half of all pairs are right: a quarter of a hard prompt's, three quarters of an easy one's."""
    rng = np.random.default_rng(0)
    prompts = [prompt for prompt in range(60) for _ in range(20)]
    held = {"prompts": 0, "pairs": 0}
    for seed in range(300):
        rates = np.repeat(rng.choice([0.25, 0.75], 60), 20)
        values = torch.from_numpy((rng.random(1200) < rates).astype(float))
        for kind, clusters in (("prompts", prompts), ("pairs", None)):
            low, high = bootstrap_interval(values, clusters, resamples=500, seed=seed)
            held[kind] += low <= 0.5 <= high
    assert held["prompts"] / 300 == pytest.approx(0.94, abs=0.03)
    assert held["pairs"] / 300 == pytest.approx(0.61, abs=0.06)


def test_bootstrap_is_a_function_of_its_seed(monkeypatch):
    """Neither the order of rows nor how many draws are held at once is an input."""
    rng = random.Random(0)
    values, clusters = [float(rng.random() < 0.7) for _ in range(90)], [rng.randrange(20) for _ in range(90)]
    found = bootstrap_interval(values, clusters)
    assert bootstrap_interval(values, clusters) == found
    assert bootstrap_interval(values[::-1], clusters[::-1]) == found
    assert bootstrap_interval(values, [f"prompt {cluster}" for cluster in clusters]) == found
    assert len({bootstrap_interval(values, clusters, seed=seed) for seed in range(5)}) > 1
    monkeypatch.setattr(intervals, "_DRAWS_AT_ONCE", 1)
    assert bootstrap_interval(values, clusters) == found


def test_what_does_not_count_is_left_out():
    """A cluster with nan alone is none."""
    values, clusters = [1, 0, 1, 1], ["x", "x", "y", "z"]
    expected = bootstrap_interval(values, clusters)
    assert bootstrap_interval([1, NAN, 0, 1, 1, NAN], ["x", "y", "x", "y", "z", "w"]) == expected
    assert bootstrap_interval([1, NAN, 0, 1, 1], ["x", "w", "x", "y", "z"]) == expected
    assert bootstrap_interval([NAN, 1, 0], None) == bootstrap_interval([1, 0])


@pytest.mark.parametrize(
    ("values", "clusters"), [([], None), ([1], None), ([1, 0], ["x", "x"]), ([1, NAN], ["x", "y"])]
)
def test_fewer_than_two_clusters_have_no_interval(values, clusters):
    assert all(math.isnan(bound) for bound in bootstrap_interval(values, clusters))


def test_paired_test_by_hand():
    """Eight pairs count for both: 5 right for the first alone, 1 for the second alone, so (5 - 1) / 8.

    Of 6 fair coins 5 or more, or 1 or fewer, fall on one side with 2 * (6 + 1) / 64 = 0.21875.
    """
    first, second = [1, 1, 1, 1, 1, 1, 0, 0, NAN, 1], [0, 0, 0, 0, 0, 1, 0, 1, 1, NAN]
    found = paired_test(first, second)
    assert (found.difference, found.num_pairs, found.num_only_first, found.num_only_second) == (0.5, 8, 5, 1)
    assert found.p_value == pytest.approx(0.21875, abs=1e-12)
    assert (found.low, found.high) == bootstrap_interval([1, 1, 1, 1, 1, 0, 0, -1])
    swapped = paired_test(second, first)
    assert (swapped.difference, swapped.num_only_first, swapped.num_only_second) == (-0.5, 1, 5)
    assert swapped.p_value == found.p_value


def test_paired_test_draws_clusters_together():
    """Two prompts, one where the first is better and one where the second is: nothing is known, however many pairs."""
    first, second, prompts = [1] * 50 + [0] * 50, [0] * 50 + [1] * 50, ["x"] * 50 + ["y"] * 50
    found = paired_test(first, second, prompts)
    assert (found.difference, found.low, found.high, found.p_value) == (0, -1, 1, 1)
    assert paired_test(first, second).high < 0.3


def test_models_that_never_differ():
    found = paired_test([1, 0, 1], [1, 0, 1])
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_paired_test_over_nothing_is_nan():
    found = paired_test([NAN, 1], [1, NAN])
    assert all(math.isnan(value) for value in (found.difference, found.low, found.high, found.p_value))
    assert found.num_pairs == 0


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="expected 2 clusters, one for each row, got 3"):
        bootstrap_interval([1, 0], ["x", "y", "z"])
    with pytest.raises(ValueError, match=r"first and second of one shape \[N\], got \[1\] and \[2\]"):
        paired_test([1], [1, 0])
    with pytest.raises(ValueError, match=r"expected second of 1 \(right\), 0 \(wrong\) or nan .*, got -1 in row 1"):
        paired_test([1, 0], [1, -1])
