"""How sure an accuracy is: intervals of a mean, and a paired test of two models on the same pairs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from descore.metrics.columns import Column, check_values, float64_columns, numbered
from descore.seeding import fold

_Z_95 = 1.959964
_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two models on the pairs that count for both.

    Attributes:
        difference: Accuracy of the first less that of the second.
        low: Lower bound of its 95 % interval.
        high: Upper bound of its 95 % interval.
        p_value: Of McNemar's exact test, two-sided. It takes pairs as independent: where many share a prompt it is too
            small, and the interval over clusters is what to go by.
        num_pairs: Pairs that count for both.
        num_only_first: Pairs that only the first calls right.
        num_only_second: Pairs that only the second calls right.
    """

    difference: float
    low: float
    high: float
    p_value: float
    num_pairs: int
    num_only_first: int
    num_only_second: int


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Return the Wilson 95 % confidence interval of an accuracy over n independent pairs; (nan, nan) if there are none.

    >>> [round(bound, 3) for bound in interval(0.8, 10)]
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
    """Return the bootstrap's 95 % percentile interval of a mean.

    Args:
        values: [N], such as the `calls` of a model; nan is left out.
        clusters: N keys, such as the prompt: values of one key are drawn together. None: every value on its own.
        resamples: How often as many clusters as there are, are drawn with replacement.
        seed: Of the draws. Neither row order nor memory changes them.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled means. (nan, nan) of fewer than two clusters, which say nothing
        about how clusters differ.

    Raises:
        ValueError: If values are not [N], or there are not N clusters.
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
    """Compare two models on the same pairs; one that does not count for both (nan) is left out of everything.

    Args:
        first: [N] `calls` of a model.
        second: [N] `calls` of the other, on the same pairs in the same order.
        clusters: As in `bootstrap_interval`, as are the rest.
        resamples: Of the interval.
        seed: Of the interval.

    Returns:
        Difference, interval and test; nan over no pairs.

    Raises:
        ValueError: If the columns are not [N] of the same N, a call is not 1, 0 or nan, or there are not N clusters.
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
    """Return the two-sided p-value of a fair coin; 1 where the models never differ."""
    flips = only_first + only_second
    return float(binomtest(only_first, flips).pvalue) if flips else 1.0


def _clusters(values: Tensor, clusters: Sequence[Hashable] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum and the number of the values of each cluster that has any."""
    present = ~np.isnan(values.numpy())
    numbers = values.numpy()[present]
    if clusters is None:
        return numbers, np.ones(len(numbers))
    members = numbered("clusters", clusters, len(values))[1].numpy()[present]
    sums, sizes = (np.bincount(members, weights).astype(np.float64) for weights in (numbers, None))
    return sums[sizes > 0], sizes[sizes > 0]


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return [resamples] means. Clusters of equal sum and size are alike, so only how many of each kind is drawn."""
    kinds, frequency = np.unique(sums + 1j * sizes, return_counts=True)  # a pair of numbers as one: sum, and size
    random = np.random.default_rng(fold(seed, "bootstrap"))
    means = []
    rows = max(1, _DRAWS_AT_ONCE // len(kinds))
    for start in range(0, resamples, rows):
        drawn = random.multinomial(len(sums), frequency / len(sums), size=min(rows, resamples - start))
        totals = drawn @ kinds
        means.append(totals.real / totals.imag)
    return np.concatenate(means)
