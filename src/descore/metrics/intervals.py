"""Confidence intervals of an accuracy, and a paired test of two models on the same pairs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from descore.metrics.columns import Column, check_values, float64_columns, number_keys
from descore.seeding import fold

_Z_95 = 1.959964
_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Comparison of two models on the pairs that count for both.

    Attributes:
        difference: Accuracy of the first model minus accuracy of the second.
        low: Lower bound of the 95 % confidence interval of the difference.
        high: Upper bound of the 95 % confidence interval of the difference.
        p_value: Two-sided p-value of McNemar's exact test. The test assumes independent pairs: where many pairs share a
            prompt the p-value is too small, and the interval over clusters is to be trusted instead.
        num_pairs: Number of pairs that count for both models.
        num_only_first: Number of pairs that only the first model predicts right.
        num_only_second: Number of pairs that only the second model predicts right.
    """

    difference: float
    low: float
    high: float
    p_value: float
    num_pairs: int
    num_only_first: int
    num_only_second: int


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """Compute the Wilson 95 % confidence interval of an accuracy over n independent pairs (Wilson, 1927).

    Args:
        accuracy: Share of right pairs, from 0 to 1.
        n: Number of pairs.

    Returns:
        Lower and upper bound; (nan, nan) over no pairs.

    >>> [round(bound, 3) for bound in wilson_interval(0.8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return math.nan, math.nan
    shrink = 1 / (1 + _Z_95**2 / n)
    centre = shrink * (accuracy + _Z_95**2 / (2 * n))
    half = shrink * _Z_95 * math.sqrt(accuracy * (1 - accuracy) / n + _Z_95**2 / (4 * n**2))
    return centre - half, centre + half


def bootstrap_interval(
    values: Column, clusters: Sequence[Hashable] | None = None, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of a mean.

    Args:
        values: [N] values, such as the `calls` of a model; nan is left out.
        clusters: N keys, such as prompts: values with the same key are drawn together. None draws each value by itself.
        resamples: Number of resamples; each draws as many clusters as there are, with replacement.
        seed: Seed of the resamples, which do not depend on the order of the rows.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled means; (nan, nan) for fewer than two clusters.

    Raises:
        ValueError: If the values are not [N], or there are not N clusters.

    >>> low, high = bootstrap_interval([1.0, 0.0] * 50)
    >>> 0.35 < low < 0.45 and 0.55 < high < 0.65
    True
    """
    (values,) = float64_columns(values=values)
    sums, sizes = _clusters(values, clusters)
    if len(sums) < 2:
        return math.nan, math.nan
    low, high = np.quantile(_resampled_means(sums, sizes, resamples, seed), [0.025, 0.975])
    return float(low), float(high)


def paired_test(
    first: Column, second: Column, clusters: Sequence[Hashable] | None = None, *, resamples: int = 2000, seed: int = 0
) -> PairedTest:
    """Compare the accuracies of two models on the same pairs; pairs that do not count for both (nan) are left out.

    Args:
        first: [N] `calls` of the first model.
        second: [N] `calls` of the second model, on the same pairs in the same order.
        clusters: N keys, such as prompts: pairs with the same key are drawn together. None draws each pair by itself.
        resamples: Number of bootstrap resamples for the interval.
        seed: Seed of the resamples.

    Returns:
        Difference, interval and test; difference, interval and p-value are nan over no pairs.

    Raises:
        ValueError: If the columns are not both [N], a value is not 1, 0 or nan, or there are not N clusters.

    >>> found = paired_test([1, 1, 1, 0], [1, 0, 0, 0])
    >>> found.difference, found.num_only_first, found.num_only_second, found.p_value
    (0.5, 2, 0, 0.5)
    """
    first, second = float64_columns(first=first, second=second)
    for name, column in (("first", first), ("second", second)):
        check_values(name, column, [1, 0], "1 (right), 0 (wrong) or nan (does not count), as `calls` returns")
    difference = first - second
    low, high = bootstrap_interval(difference, clusters, resamples=resamples, seed=seed)
    num_pairs = int((~difference.isnan()).sum())
    only_first, only_second = int((difference > 0).sum()), int((difference < 0).sum())
    return PairedTest(
        difference=(only_first - only_second) / num_pairs if num_pairs else math.nan,
        low=low,
        high=high,
        p_value=_mcnemar(only_first, only_second) if num_pairs else math.nan,
        num_pairs=num_pairs,
        num_only_first=only_first,
        num_only_second=only_second,
    )


def _mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, the binomial test of a fair coin."""
    flips = only_first + only_second
    return float(binomtest(only_first, flips).pvalue) if flips else 1.0


def _clusters(values: Tensor, clusters: Sequence[Hashable] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum and the number of values of each cluster, without empty clusters."""
    present = ~np.isnan(values.numpy())
    numbers = values.numpy()[present]
    if clusters is None:
        return numbers, np.ones(len(numbers))
    members = number_keys("clusters", clusters, len(values))[1].numpy()[present]
    sums, sizes = (np.bincount(members, weights).astype(np.float64) for weights in (numbers, None))
    return sums[sizes > 0], sizes[sizes > 0]


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Draw the means of the resamples, [resamples].

    Clusters with equal sum and size are interchangeable, so it is enough to draw how many of each kind there are.
    """
    kinds, frequency = np.unique(
        sums + 1j * sizes, return_counts=True
    )  # sum and size of a cluster in one complex number
    random = np.random.default_rng(fold(seed, "bootstrap"))
    means = []
    rows = max(1, _DRAWS_AT_ONCE // len(kinds))
    for start in range(0, resamples, rows):
        drawn = random.multinomial(len(sums), frequency / len(sums), size=min(rows, resamples - start))
        totals = drawn @ kinds
        means.append(totals.real / totals.imag)
    return np.concatenate(means)
