"""The rubric: rollout rewards of a thought, the weighted sum of rules."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from descore.rewards.rules import (
    Verdict,
    agreement_reward,
    consistency_reward,
    cosine_reward,
    format_reward,
    length_reward,
    quality_reward,
    repetition_reward,
    verdict_reward,
)

Rule = Callable[[str, Mapping[str, Any] | None, int], float]
"""Grades a thought from its text, the annotated dimension scores and its number of tokens; nan if it cannot tell."""

RULES = ("quality", "agreement", "consistency", "verdict", "format", "length", "cosine", "repetition")
"""Names of the rules."""

OF_ONE_VIDEO = frozenset({"quality", "agreement", "consistency"})
"""Rules that grade dimension scores, which a thought about two videos does not have."""

NEED_SCORES = frozenset({"quality", "agreement", "cosine"})
"""Rules that compare a thought with the annotated dimension scores of its video."""

CORRECT = 0.7
"""Share of right dimension scores from which the cosine reward takes a thought to be correct."""

PUBLISHED_WEIGHTS: Mapping[str, float] = MappingProxyType({"quality": 0.7, "format": 0.1, "length": 0.2})
"""Weights of the rules in DeScore (arXiv 2605.05922)."""


@dataclass(frozen=True, slots=True)
class RolloutReward:
    """Rollout reward of one thought.

    Attributes:
        total: Weighted sum of the parts; nan if any part is nan.
        parts: Value of each rule by name, before it is weighted.
    """

    total: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Rubric:
    """Computes the rollout reward of a thought: R = 0.7 quality + 0.1 format + 0.2 length by default.

    Args:
        weights: Weight of each rule. The name of a rule is quality, agreement, consistency, verdict, format, length,
            cosine, repetition, or the dotted path of a function `f(text, truth, num_tokens) -> float`. Rules that are
            not named do not run; a rule with weight 0 runs and is reported among the parts. For a model that compares
            two videos: verdict, format, length, cosine, repetition, or functions, whose truth is {"verdict": "A"},
            "tie" or "B", the right outcome for the videos in their order, or None.
        length_low: Number of tokens up to which the length reward is 0.
        length_high: Number of tokens from which the length reward is 1.
        cosine_tokens: Number of tokens at which the cosine reward has reached its end.
        repetition_words: Number of words of the phrases that the repetition reward counts.

    Raises:
        ValueError: If all weights are 0, a weight is not finite, a name is neither a rule nor the path of a function,
            the length bounds are out of order, or another number is below 1.

    >>> from descore.answer import Answer, write_thought
    >>> truth = {"subject": 2, "dynamics": 2, "camera": None, "environment": 2, "style": 0}
    >>> Rubric()(write_thought("A dog.", Answer(truth | {"dynamics": 1})), truth, num_tokens=1250)
    RolloutReward(total=0.76, parts={'quality': 0.8, 'format': 1.0, 'length': 0.5})
    """

    weights: dict[str, float] = field(default_factory=lambda: dict(PUBLISHED_WEIGHTS))
    length_low: int = 500
    length_high: int = 2000
    cosine_tokens: int = 1024
    repetition_words: int = 6

    def __post_init__(self) -> None:
        if not any(self.weights.values()) or not all(map(math.isfinite, self.weights.values())):
            raise ValueError(f"expected finite rollout weights, at least one that is not 0, got {dict(self.weights)}")
        length_reward(0, self.length_low, self.length_high)  # raises for wrong bounds now, not at the first thought
        cosine_reward(0, self.cosine_tokens, correct=True)
        repetition_reward("", self.repetition_words)
        self._rules  # noqa: B018 - raises now for a function that is not there

    @cached_property
    def _rules(self) -> dict[str, Rule]:
        published: dict[str, Rule] = {
            "quality": lambda text, truth, num_tokens: quality_reward(text, truth),
            "agreement": lambda text, truth, num_tokens: agreement_reward(text, truth),
            "consistency": lambda text, truth, num_tokens: consistency_reward(text),
            "format": lambda text, truth, num_tokens: format_reward(text),
            "length": lambda text, truth, num_tokens: length_reward(num_tokens, self.length_low, self.length_high),
            "cosine": lambda text, truth, num_tokens: cosine_reward(
                num_tokens, self.cosine_tokens, correct=quality_reward(text, truth) >= CORRECT
            ),
            "repetition": lambda text, truth, num_tokens: repetition_reward(text, self.repetition_words),
        }
        return {name: published.get(name) or _imported(name) for name in self.weights if name != "verdict"}

    def _of_verdict(self, verdict: Verdict, num_tokens: int) -> dict[str, float]:
        """Return what the rules give that grade a comparison in another way than a score."""
        found = {"verdict": verdict_reward(verdict), "format": float(verdict.whole)}
        found["cosine"] = cosine_reward(num_tokens, self.cosine_tokens, correct=found["verdict"] == 1)
        return {name: value for name, value in found.items() if name in self.weights}

    def check(self, *, pairwise: bool) -> None:
        """Check that the rules can grade the thoughts of a model.

        Args:
            pairwise: Whether the model compares two videos.

        Raises:
            ValueError: If a rule grades what such thoughts do not have.
        """
        if wrong := sorted((OF_ONE_VIDEO if pairwise else {"verdict"}) & self.weights.keys()):
            kind, expected = ("two videos", "verdict and format") if pairwise else ("one video", "quality and format")
            raise ValueError(
                f"rubric.weights has {', '.join(wrong)}, which cannot grade thoughts about {kind}; expected others, "
                f"such as {expected}"
            )

    def __call__(
        self, text: str, truth: Mapping[str, Any] | None, num_tokens: int, verdict: Verdict | None = None
    ) -> RolloutReward:
        """Grade one thought.

        Args:
            text: Text of the thought, as it was sampled.
            truth: Annotated dimension scores of the video; None if there are none, which is an error for the rules of
                `NEED_SCORES`.
            num_tokens: Number of tokens of the thought.
            verdict: What a thought about two videos says of them; None for one about one video.

        Raises:
            ValueError: If the annotated scores are invalid, a rule returns infinity, or it cannot grade such thoughts.
        """
        self.check(pairwise=verdict is not None)
        known = self._of_verdict(verdict, num_tokens) if verdict else {}
        rules = {name: rule for name, rule in self._rules.items() if name not in known}
        parts = known | {name: float(rule(text, truth, num_tokens)) for name, rule in rules.items()}
        if infinite := [name for name, part in parts.items() if math.isinf(part)]:
            raise ValueError(f"rollout reward {infinite[0]!r} is infinite; expected a finite number or nan")
        # fsum, since the rounding of a plain sum depends on the order of its terms: equal thoughts get equal rewards.
        return RolloutReward(math.fsum(self.weights[name] * part for name, part in parts.items()), parts)


def _imported(path: str) -> Rule:
    module, _, name = path.rpartition(".")
    expected = f"expected {', '.join(RULES)}, or the dotted path of a function, got {path!r}"
    if not module:
        raise ValueError(expected)
    try:
        rule: Rule = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{expected}: {error}") from error
    if not callable(rule):
        raise ValueError(f"{expected}, which is a {type(rule).__name__}")
    return rule
