"""Rollout rewards: rules that grade one sampled thought, and a rubric that weighs them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from descore.answer import NOT_ASKED, AnswerError, overall_score, parse_answer, parse_scores
from descore.types import DIMENSIONS, DimensionScores

Rule = Callable[[str, Mapping[str, Any] | None, int], float]
"""Takes the thought's text, the annotated dimension scores and the number of tokens; nan says that it cannot tell."""

NEED_SCORES = frozenset({"quality", "agreement"})
"""The rules that compare a thought with the annotated dimension scores of its video."""

PUBLISHED_WEIGHTS: Mapping[str, float] = MappingProxyType({"quality": 0.7, "format": 0.1, "length": 0.2})


@dataclass(frozen=True, slots=True)
class RolloutReward:
    """The rollout reward of one thought.

    Attributes:
        total: The weighted sum of the parts; nan when one of them is.
        parts: What each rule gives, by name and without its weight.
    """

    total: float
    parts: dict[str, float]


class Rubric:
    """Grades thoughts by weighted rules.

    Args:
        weights: Weight of each rule: quality, agreement, format, length, or the dotted path of a function
            `f(text, truth, num_tokens) -> float`. A rule that is not named does not run; one with weight 0 only shows
            among the parts.
        length_low: Number of tokens up to which the length reward is 0.
        length_high: Number of tokens from which it is 1.

    Raises:
        ValueError: If no weight counts, a name is neither a rule nor a function, or the length bounds are out of order.

    >>> from descore.answer import Answer, write_thought
    >>> truth = {"subject": 2, "dynamics": 2, "camera": None, "environment": 2, "style": 0}
    >>> Rubric()(write_thought("A dog.", Answer(truth | {"dynamics": 1})), truth, num_tokens=1250)
    RolloutReward(total=0.76, parts={'quality': 0.8, 'format': 1.0, 'length': 0.5})
    """

    def __init__(
        self, weights: Mapping[str, float] = PUBLISHED_WEIGHTS, *, length_low: int = 500, length_high: int = 2000
    ) -> None:
        if not any(weights.values()) or not all(map(math.isfinite, weights.values())):
            raise ValueError(f"expected finite weights of rollout rewards and one that is not 0, got {dict(weights)}")
        length_reward(0, length_low, length_high)  # refuses wrong bounds before a run begins
        published: dict[str, Rule] = {
            "quality": lambda text, truth, num_tokens: quality_reward(text, truth),
            "agreement": lambda text, truth, num_tokens: agreement_reward(text, truth),
            "format": lambda text, truth, num_tokens: format_reward(text),
            "length": lambda text, truth, num_tokens: length_reward(num_tokens, length_low, length_high),
        }
        self.weights = dict(weights)
        self._rules = {name: published.get(name) or _imported(name) for name in weights}

    def __call__(self, text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> RolloutReward:
        """Grade one thought.

        Args:
            text: The thought as it was sampled.
            truth: The annotated dimension scores of its video; None where there are none, which quality and
                agreement refuse.
            num_tokens: Number of tokens of the thought.

        Raises:
            ValueError: If the annotated scores are not legal, or a rule gives infinity.
        """
        parts = {name: float(rule(text, truth, num_tokens)) for name, rule in self._rules.items()}
        if infinite := [name for name, part in parts.items() if math.isinf(part)]:
            raise ValueError(f"the rollout reward {infinite[0]} is infinite; expected a number, or nan for a failure")
        # The rounding of a plain sum depends on the order of its terms; equal thoughts must get equal rewards.
        return RolloutReward(math.fsum(self.weights[name] * part for name, part in parts.items()), parts)


def quality_reward(text: str, truth: Mapping[str, Any] | None) -> float:
    """Return the share of the five dimension scores that equal the annotated ones; "2" equals 2, N/A equals N/A.

    A thought whose answer is missing or not legal gets 0.

    Raises:
        ValueError: If the annotated scores are not legal; None and "N/A" both stand for N/A.
    """
    annotated = _annotated(truth)
    try:
        scores = parse_answer(text).scores
    except AnswerError:
        return 0.0
    return sum(scores[name] == annotated[name] for name in DIMENSIONS) / len(DIMENSIONS)


def agreement_reward(text: str, truth: Mapping[str, Any] | None) -> float:
    """Return 1 - |overall score - true overall score| / 4; the true one is what the annotated scores amount to.

    A thought without a legal overall score gets 0. The reward of a model that writes its score into the thought.

    Raises:
        ValueError: If the annotated scores are not legal; None and "N/A" both stand for N/A.
    """
    true_overall = overall_score(_annotated(truth))
    try:
        overall = parse_answer(text).overall
    except AnswerError:
        return 0.0
    return 0.0 if overall is None else 1 - abs(overall - true_overall) / 4


def format_reward(text: str) -> float:
    """Return 1 if a closed `<think>...</think>` is followed by a legal answer with all five dimensions, else 0.

    The answer ends the thought. One that goes on would earn the length reward with what says nothing, and a policy
    learns to.
    """
    conclusion = text.partition("<think>")[2].partition("</think>")[2]
    if conclusion.partition("</answer>")[2].strip():
        return 0.0
    try:
        parse_answer(conclusion)
    except AnswerError:
        return 0.0
    return 1.0


def length_reward(num_tokens: int, low: int = 500, high: int = 2000) -> float:
    """Return 0 up to `low` tokens, rising linearly to 1 at `high`.

    Raises:
        ValueError: If `low` is not below `high`, or is negative.

    >>> length_reward(499), length_reward(1250), length_reward(4096)
    (0.0, 0.5, 1.0)
    """
    if not 0 <= low < high:
        raise ValueError(f"expected length bounds with 0 <= low < high, got low {low} and high {high}")
    return min(max((num_tokens - low) / (high - low), 0.0), 1.0)


def _annotated(truth: Mapping[str, Any] | None) -> DimensionScores:
    if isinstance(truth, Mapping):
        truth = {name: NOT_ASKED if value is None else value for name, value in truth.items()}
    try:
        return parse_scores(truth)
    except AnswerError as error:
        raise ValueError(
            f"the annotated scores are not legal: {error}; correct them in the table, or leave quality and agreement "
            "out"
        ) from error


def _imported(path: str) -> Rule:
    module, _, name = path.rpartition(".")
    expected = f"expected quality, agreement, format, length, or the dotted path of a function, got {path!r}"
    if not module:
        raise ValueError(expected)
    try:
        rule: Rule = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{expected}: {error}") from error
    if not callable(rule):
        raise ValueError(f"{expected}, which is a {type(rule).__name__}")
    return rule
