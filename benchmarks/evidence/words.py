"""What came out, in words: what the intervals of the numbers allow to say, and no more."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.evidence.measure import HEADS, WRITERS
from benchmarks.evidence.plan import PARADIGMS
from benchmarks.evidence.results import Json

GIVEN_CASES = {"0.0": "right", "teacher": "teacher's", "none": "missing", "1.0": "wrong"}
"""Thoughts that heads are given, by their name in the results."""


def verdicts(differences: Mapping[str, Json | None]) -> str:
    """Say what ours is better than, worse than and not distinguishable from, by the intervals of the differences.

    >>> one, two = {"mean": 0.1, "low": 0.02, "high": 0.2}, {"mean": 0.01, "low": -0.1, "high": 0.1}
    >>> verdicts({"one": one, "two": two, "ours": None})
    'better than “one” (+0.100); not distinguishable from “two” (+0.010)'
    """
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not distinguishable from": []}
    for label, found in differences.items():
        if found is not None:
            better, worse = found["low"] > 0, found["high"] < 0
            kind = "better than" if better else "worse than" if worse else "not distinguishable from"
            kinds[kind].append(f"“{label}” ({found['mean']:+.3f})")
    return "; ".join(f"{kind} {', '.join(labels)}" for kind, labels in kinds.items() if labels)


def claim(masking: str, found: Json) -> str:
    """Say whether right thoughts give better rewards than wrong ones, by the interval of the difference.

    >>> claim("with masking", {"mean": 0.01, "low": -0.1, "high": 0.1})
    'with masking, right thoughts are not shown to give better rewards than wrong ones: +0.010 (-0.100 to +0.100)'
    """
    verb, against = ("give better", "") if found["low"] > 0 else ("are not shown to give better", "")
    if found["high"] < 0:
        verb, against = "give worse", ", against the claim"
    return f"{masking}, right thoughts {verb} rewards than wrong ones{against}: {difference(found)}"


def best_and_worst(split: str, found: Json) -> str:
    """Say what each head makes of the thoughts with the highest and with the lowest quality."""
    ranked = sorted(WRITERS, key=lambda writer: found["quality"][writer])
    heads = " and ".join(
        f"{with_interval(found[head][ranked[-1]])} against {with_interval(found[head][ranked[0]])} with the head of "
        f"“{PARADIGMS[head].label}”"
        for head in HEADS
    )
    best, worst = (f"“{PARADIGMS[w].label}” (quality {found['quality'][w]:.3f})" for w in (ranked[-1], ranked[0]))
    return f"{split.capitalize()}, the best thoughts are those of {best}, the worst those of {worst}: {heads}."


def gain(label: str, found: Json) -> str:
    """Say what many thoughts add to one, and whether their spread predicts errors.

    >>> high, low = {"mean": 0.8, "low": 0.7, "high": 0.9}, {"mean": 0.5, "low": 0.4, "high": 0.6}
    >>> added = {"mean": 0.1, "low": 0.02, "high": 0.2}
    >>> found = {"by_number": {"1": low, "2": high}, "all_minus_first": added, "by_spread": [high, low]}
    >>> gain("ours", found).split(": ")[1:3]
    ['2 thoughts against one, more accurate', '+0.100 (+0.020 to +0.200). Their spread predicts errors']
    """
    added, most, least = found["all_minus_first"], found["by_spread"][0], found["by_spread"][-1]
    verdict = "more accurate" if added["low"] > 0 else "less accurate" if added["high"] < 0 else "not shown to differ"
    apart = "predicts errors" if most["low"] > least["high"] else "is not shown to predict errors"
    return (
        f"“{label}”: {len(found['by_number'])} thoughts against one, {verdict}: {difference(added)}. Their spread "
        f"{apart}: {with_interval(most)} where they agree most, {with_interval(least)} where they agree least."
    )


def interval(value: Json) -> str:
    """Format an interval, such as 0.512 to 0.608."""
    return f"{value['low']:.3f} to {value['high']:.3f}"


def with_interval(value: Json) -> str:
    """Format a mean with its interval, such as 0.560 (0.512 to 0.608)."""
    return f"{value['mean']:.3f} ({interval(value)})"


def difference(value: Json | None) -> str | None:
    """Format a difference with its interval, such as +0.060 (+0.012 to +0.108)."""
    return None if value is None else f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"


def seeds(value: Json) -> str:
    """List the means of seeds, such as 0.550, 0.561, 0.569."""
    return ", ".join(f"{seed:.3f}" for seed in value["seeds"])


def row(label: str, value: Json) -> list[object]:
    """Cells of an arm: accuracy, that of each seed, with ties, ours minus it, quality, calibration error, failures."""
    minus = difference(value.get("ours_minus"))
    cells = [with_interval(value), seeds(value), value["with_ties"], minus]
    return [label, *cells, value["quality"], value["calibration_error"], value["num_failed"]]
