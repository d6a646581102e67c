"""Metrics of rewards: agreement with people, its intervals and tests, calibration, and signs of hacking.

`PreferenceAccuracy` is in `descore.metrics.accumulated`, since importing torchmetrics takes seconds.
"""

from descore.metrics.accuracy import Agreement, accuracy_at, by_group, calls, preference_accuracy
from descore.metrics.calibration import Bin, Calibration, calibration
from descore.metrics.correlation import RankCorrelation, rank_correlation
from descore.metrics.groups import GroupCorrelation, GroupSpread, group_correlation, group_spread
from descore.metrics.intervals import PairedTest, bootstrap_interval, paired_test, wilson_interval
from descore.metrics.swap import PromptSwap, prompt_swap

__all__ = [
    "Agreement",
    "Bin",
    "Calibration",
    "GroupCorrelation",
    "GroupSpread",
    "PairedTest",
    "PromptSwap",
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
    "prompt_swap",
    "rank_correlation",
    "wilson_interval",
]
