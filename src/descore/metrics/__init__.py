"""Metrics of rewards: accuracy, intervals, paired tests, calibration, rank correlation, spread within groups.

`PreferenceAccuracy` is in `descore.metrics.accumulated`, since importing torchmetrics takes seconds.
"""

from descore.metrics.accuracy import Agreement, accuracy_at, by_group, calls, preference_accuracy
from descore.metrics.calibration import Bin, Calibration, calibration
from descore.metrics.correlation import RankCorrelation, rank_correlation
from descore.metrics.groups import GroupCorrelation, GroupSpread, group_correlation, group_spread
from descore.metrics.intervals import PairedTest, bootstrap_interval, paired_test, wilson_interval

__all__ = [
    "Agreement",
    "Bin",
    "Calibration",
    "GroupCorrelation",
    "GroupSpread",
    "PairedTest",
    "RankCorrelation",
    "accuracy_at",
    "bootstrap_interval",
    "by_group",
    "calibration",
    "calls",
    "group_correlation",
    "group_spread",
    "paired_test",
    "preference_accuracy",
    "rank_correlation",
    "wilson_interval",
]
