"""Metrics of how well rewards agree with people: accuracy, intervals, paired tests, calibration, rank correlation.

`PreferenceAccuracy` is in `descore.metrics.accumulated`, since importing torchmetrics takes seconds.
"""

from descore.metrics.accuracy import Agreement, accuracy_at, by_group, calls, preference_accuracy
from descore.metrics.calibration import Bin, Calibration, calibration
from descore.metrics.correlation import RankCorrelation, rank_correlation
from descore.metrics.intervals import PairedTest, bootstrap_interval, paired_test, wilson_interval

__all__ = [
    "Agreement",
    "Bin",
    "Calibration",
    "PairedTest",
    "RankCorrelation",
    "accuracy_at",
    "bootstrap_interval",
    "by_group",
    "calibration",
    "calls",
    "paired_test",
    "preference_accuracy",
    "rank_correlation",
    "wilson_interval",
]
