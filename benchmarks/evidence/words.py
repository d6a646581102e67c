"""What came out, in words: what the intervals of the numbers allow to say, and no more."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.evidence.measure import HEADS, WRITERS
from benchmarks.evidence.plan import PARADIGMS
from benchmarks.evidence.results import Json


def verdicts(differences: Mapping[str, Json | None]) -> str:
    """Say what ours is better than, worse than, and not to be told apart from, by the intervals of the differences."""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not to be told apart from": []}
    for label, found in differences.items():
        if found is not None:
            better, worse = found["low"] > 0, found["high"] < 0
            kind = "better than" if better else "worse than" if worse else "not to be told apart from"
            kinds[kind].append(f"“{label}” ({found['mean']:+.3f})")
    return "; ".join(f"{kind} {', '.join(labels)}" for kind, labels in kinds.items() if labels)


def claim(masking: str, found: Json) -> str:
    """Say whether right thoughts give better rewards than wrong ones, by the interval of the difference."""
    if found["low"] > 0:
        return f"{masking}, right thoughts give better rewards than wrong ones: {difference(found)}"
    if found["high"] < 0:
        return f"{masking}, right thoughts give worse rewards than wrong ones, against the claim: {difference(found)}"
    return f"{masking}, right thoughts are not shown to give better rewards than wrong ones: {difference(found)}"


def best_and_worst(split: str, found: Json) -> str:
    """Say what each head makes of the thoughts that are right most often, and least often."""
    ranked = sorted(WRITERS, key=lambda writer: found["quality"][writer])
    heads = " and ".join(
        f"{with_interval(found[head][ranked[-1]])} against {with_interval(found[head][ranked[0]])} with the head of "
        f"“{PARADIGMS[head].label}”"
        for head in HEADS
    )
    best, worst = (f"“{PARADIGMS[w].label}” (quality {found['quality'][w]:.3f})" for w in (ranked[-1], ranked[0]))
    return f"{split.capitalize()}, the best thoughts are those of {best}, the worst those of {worst}: {heads}."


def gain(label: str, found: Json) -> str:
    """Say what many thoughts add to one, and whether their spread tells right from wrong."""
    added, most, least = found["all_minus_first"], found["by_spread"][0], found["by_spread"][-1]
    verdict = "more accurate" if added["low"] > 0 else "less accurate" if added["high"] < 0 else "not shown to differ"
    apart = "predicts errors" if most["low"] > least["high"] else "is not shown to predict errors"
    return (
        f"“{label}”: {len(found['by_number'])} thoughts against one, {verdict}: {difference(added)}. Their spread "
        f"{apart}: {with_interval(most)} where they agree most, {with_interval(least)} where least."
    )


def interval(value: Json) -> str:
    """0.512 to 0.608."""
    return f"{value['low']:.3f} to {value['high']:.3f}"


def with_interval(value: Json) -> str:
    """0.560 (0.512 to 0.608)."""
    return f"{value['mean']:.3f} ({interval(value)})"


def difference(value: Json | None) -> str | None:
    """+0.060 (+0.012 to +0.108)."""
    return None if value is None else f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"


def seeds(value: Json) -> str:
    """0.550, 0.561, 0.569."""
    return ", ".join(f"{seed:.3f}" for seed in value["seeds"])
