import math
import warnings

import pytest
import torch

from descore.metrics import calibration, rank_correlation

NAN = float("nan")


def test_calibration_by_hand():
    """sigmoid(ln 3) = 3/4 and 3 of 4 are right: error 0. sigmoid(ln 19) = 0.95 and 1 of 2 is: 0.45.

    So 0.45 * 2 / 6 = 0.15. A tie, a failed and an unlabelled pair do not count.
    """
    margin = [math.log(3)] * 3 + [-math.log(3), math.log(19), -math.log(19), 1, NAN, 1]
    preference = [1, 1, -1, -1, 1, 1, 0, 1, NAN]
    found = calibration(margin, preference, num_bins=5)
    assert found.expected_error == pytest.approx(0.15, abs=1e-12)
    assert found.num_pairs == 6
    assert [bin_.num for bin_ in found.bins] == [0, 0, 4, 0, 2]
    assert [bin_.low for bin_ in found.bins] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert [bin_.high for bin_ in found.bins] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    assert (found.bins[2].confidence, found.bins[2].accuracy) == pytest.approx((0.75, 0.75))
    assert (found.bins[4].confidence, found.bins[4].accuracy) == pytest.approx((0.95, 0.5))
    assert math.isnan(found.bins[0].confidence)
    assert math.isnan(found.bins[0].accuracy)


def test_swapping_a_and_b_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    margin = torch.randint(-3, 4, (200,), generator=generator) / 2
    preference = torch.randint(-1, 2, (200,), generator=generator)
    found, swapped = calibration(margin, preference), calibration(-margin, -preference)
    assert swapped.expected_error == found.expected_error
    assert [bin_.num for bin_ in swapped.bins] == [bin_.num for bin_ in found.bins]


def test_a_margin_of_zero_says_one_half_and_is_half_right():
    found = calibration([0, 0, 0], [1, 1, -1])
    assert found.expected_error == 0
    assert (found.bins[0].confidence, found.bins[0].accuracy, found.bins[0].num) == (0.5, 0.5, 3)


@pytest.mark.parametrize(("scale", "expected"), [(1, 0.0), (2, 0.089), (0.5, 0.075)])
def test_only_the_right_scale_is_calibrated(scale, expected):
    """People prefer A at the rate sigmoid(margin); the expected value is E|sigmoid(s|m|) - sigmoid(|m|)|, m normal."""
    generator = torch.Generator().manual_seed(0)
    margin = torch.randn(200_000, generator=generator, dtype=torch.float64)
    preference = (torch.rand(200_000, generator=generator) < margin.sigmoid()) * 2 - 1
    closed = ((scale * margin.abs()).sigmoid() - margin.abs().sigmoid()).abs().mean().item()
    assert closed == pytest.approx(expected, abs=0.02)
    assert calibration(scale * margin, preference).expected_error == pytest.approx(closed, abs=0.005)


@pytest.mark.parametrize(("size", "expected"), [(100, 0.099), (1000, 0.032), (10_000, 0.010)])
def test_few_pairs_make_a_calibrated_model_look_wrong(size, expected):
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(100):
        margin = torch.randn(size, generator=generator, dtype=torch.float64)
        preference = (torch.rand(size, generator=generator) < margin.sigmoid()) * 2 - 1
        errors.append(calibration(margin, preference).expected_error)
    assert sum(errors) / len(errors) == pytest.approx(expected, rel=0.1)


def test_saturated_margins_are_in_the_last_bin():
    found = calibration([1000.0, math.inf, -1000.0], [1, 1, -1])
    assert found.bins[-1].num == 3
    assert found.expected_error == 0


def test_an_edge_belongs_to_the_bin_above():
    """sigmoid(log 3) is 3/4, between two bins."""
    assert [bin_.num for bin_ in calibration([math.log(3), 0.0], [1, 1], num_bins=2).bins] == [1, 1]
    assert [bin_.num for bin_ in calibration([math.log(3)], [1], num_bins=2).bins] == [0, 1]


def test_one_bin_holds_all():
    (only,) = calibration([0, 5], [1, 1], num_bins=1).bins
    assert (only.low, only.high, only.num) == (0.5, 1, 2)


def test_calibration_over_nothing_is_nan():
    found = calibration([1, NAN, 1], [0, 1, NAN])
    assert math.isnan(found.expected_error)
    assert (found.num_pairs, len(found.bins)) == (0, 10)


def test_no_bins_are_an_error():
    with pytest.raises(ValueError, match="expected at least one bin, got 0"):
        calibration([1], [1], num_bins=0)


def test_rank_correlation_by_hand():
    """Ranks differ by 0, 1, 1, 0: rho = 1 - 6 * 2 / (4 * 15) = 0.8. Of 6 pairs 5 agree and 1 does not: tau = 4 / 6."""
    found = rank_correlation([1, 20, 30, 400], [1, 3, 2, 4])
    assert (found.spearman, found.kendall) == pytest.approx((0.8, 4 / 6))


def test_equal_scores_by_hand():
    """Two agree, none disagrees, one is equal on one side: tau-b = 2 / sqrt(3 * 2).

    Ranks 1, 2, 3 and 1.5, 1.5, 3: rho = 1.5 / sqrt(2 * 1.5).
    """
    found = rank_correlation([1, 2, 3], [1, 1, 2])
    assert (found.spearman, found.kendall) == pytest.approx((1.5 / math.sqrt(3), 2 / math.sqrt(6)))


def test_failed_and_unrated_videos_are_counted_and_left_out():
    found = rank_correlation([1, NAN, 20, 30, 5, NAN, 400], [1, 2, 3, 2, NAN, NAN, 4])
    assert (found.spearman, found.kendall) == pytest.approx((0.8, 4 / 6))
    assert (found.num_videos, found.num_failed, found.num_unusable) == (4, 1, 2)


@pytest.mark.parametrize(("reward", "mos"), [([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3]), ([1, 2], [3, 3])])
def test_what_has_no_order_has_no_correlation(reward, mos):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rank_correlation(reward, mos)
    assert math.isnan(found.spearman)
    assert math.isnan(found.kendall)
    assert found.num_videos == len(reward)


def test_columns_of_another_length_are_an_error():
    with pytest.raises(ValueError, match=r"expected reward and mos of one shape \[N\], got \[2\] and \[1\]"):
        rank_correlation([1, 2], [1])
