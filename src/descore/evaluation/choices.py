"""What a comparison adds to an evaluation: verdicts in three outcomes, and how far they depend on the order."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from descore.evaluation.folder import Evaluation
from descore.pairwise.comparison import Comparison
from descore.scoring.folder import Record

VERDICTS = {1.0: "A", 0.0: "tie", -1.0: "B"}


def comparisons_of(evaluation: Evaluation) -> list[Comparison]:
    """Return the comparison of each pair of a complete evaluation; none for a model that scores videos."""
    return [Comparison.from_json(one) for one in evaluation.comparisons if one is not None]


def summarise_choices(evaluation: Evaluation, name: str) -> Record | None:
    """Summarise the comparisons of an evaluation, against the labels of one dimension.

    Args:
        evaluation: Complete evaluation.
        name: Dimension of the labels.

    Returns:
        "accuracy", the share of labelled pairs, ties included, whose verdict is the label, and their number
        "num_labelled"; the means of "p_tie" and of "order_disagreement"; and "verdict_changes", the share of pairs
        whose verdict changes with the order. A mean of nothing is None. None for a model that scores videos.
    """
    if not evaluation.is_pairwise:
        return None
    labels = [VERDICTS.get(label) for label in evaluation.preferences(name).tolist()]
    pairs = zip(comparisons_of(evaluation), labels, strict=True)
    found = [(one, label) for one, label in pairs if one.error is None]
    right = [float(one.verdict == label) for one, label in found if label is not None]
    return {
        "accuracy": _mean(right),
        "num_labelled": len(right),
        "p_tie": _mean([one.p_tie for one, _ in found]),
        "order_disagreement": _mean([one.order_disagreement or 0.0 for one, _ in found]),
        "verdict_changes": _mean([float(bool(one.verdict_changes)) for one, _ in found]),
    }


def summarise_thoughts(evaluation: Evaluation) -> Record:
    """Summarise the thoughts of comparisons: "well_formed" is the share in which a choice stands."""
    orders = [order for one in comparisons_of(evaluation) for order in one.orders]
    return {
        "well_formed": _mean([float(error is None) for order in orders for error in order.errors]),
        "mean_tokens": _mean([float(length) for order in orders for length in order.num_thought_tokens]),
        "truncated": None,
        "quality": None,
        "mean_std": None,
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
