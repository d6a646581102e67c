"""Other labels and thoughts of the rendered world, from its table: aspects, digits, grades, and verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from descore.answer import END_OF_THINKING, NOT_ASKED, AnswerError, find_answer, parse_answer, parse_scores
from descore.inputs.answers import AnswerSettings, said_values
from descore.inputs.choice import ChoiceSettings, outcome_of
from descore.types import DIMENSIONS, DimensionScores, Pair, Side

OVERALL = "overall"

ASPECTS: Mapping[str, tuple[str, ...]] = {
    "visual": ("style",),
    "motion": ("dynamics", "camera"),
    "alignment": ("subject", "environment"),
}
"""Three aspects, as VideoAlign and VideoScore2 judge them, and the dimensions that stand for them."""

AnswerForm = Literal["scores", "digits", "grades"]

SAID_AS: Mapping[str, str] = {name: dimensions[0] for name, dimensions in ASPECTS.items()}
"""What an answer calls each aspect: its first dimension, a word that the tiny backbone knows."""

DIGITS = AnswerSettings({name: f"$.dimension_scores.{word}" for name, word in SAID_AS.items()})
"""Where an answer in digits says its values."""


@dataclass(frozen=True)
class Labels:
    """What the pairs are labelled with, and in which form the teacher's thoughts end; the table stays as it is.

    Attributes:
        dimensions: Reward dimensions, one label each: "overall"; subject, dynamics, camera, environment and style; and
            the aspects visual (style), motion (dynamics and camera) and alignment (subject and environment).
        answer: How a thought ends: "scores", DeScore's answer; "digits", JSON like it with a digit from 1 to 5 for each
            aspect; "grades", with 2 (good), 1 (normal) or 0 (bad), and no reasoning before it. Form, aspects and grades
            are such that the tiny backbone knows them.
        choice: Words of the verdict that a thought about both videos ends with, see `comparison`; without them there
            are no such thoughts.

    Raises:
        ValueError: If a name is unknown.
    """

    dimensions: tuple[str, ...] = (OVERALL,)
    answer: AnswerForm = "scores"
    choice: ChoiceSettings | None = None

    def __post_init__(self) -> None:
        known = (OVERALL, *DIMENSIONS, *ASPECTS)
        if unknown := [name for name in self.dimensions if name not in known]:
            raise ValueError(f"labels.dimensions has {unknown[0]!r}; expected some of {', '.join(known)}")
        if self.answer not in get_args(AnswerForm):
            raise ValueError(f"labels.answer is {self.answer!r}; expected one of {', '.join(get_args(AnswerForm))}")

    def __call__(self, pair: Pair) -> Pair:
        """Return a pair of the table with these labels, and thoughts that end so; label noise is in "overall" alone."""
        a, b = (self._side(side) for side in (pair.a, pair.b))
        ratings = zip(self.dimensions, a.mos, b.mos, strict=True)
        labels = (pair.preference[0] if name == OVERALL else _compare(*both) for name, *both in ratings)
        thoughts = pair.thoughts if self.choice is None else _comparisons(pair, self.choice)
        return replace(pair, a=a, b=b, preference=tuple(labels), thoughts=thoughts)

    def _side(self, side: Side) -> Side:
        assert side.scores is not None  # every rendered video has them
        scores = side.scores
        mos = (side.mos[0] if name == OVERALL else rating(scores, name) for name in self.dimensions)
        return replace(side, thought=_ending(side.thought, self.answer), mos=tuple(mos))


def rating(scores: DimensionScores, name: str) -> float:
    """Return the rating of a dimension or aspect, from 1 to 5: 1 + 2 times the mean of its scores; nan if all are N/A.

    >>> scores = {"subject": 2, "dynamics": 1, "camera": 0, "environment": None, "style": None}
    >>> rating(scores, "motion"), rating(scores, "alignment"), rating(scores, "style")
    (2.0, 5.0, nan)
    """
    asked = [score for part in ASPECTS.get(name, (name,)) if (score := scores[part]) is not None]
    return 1 + 2 * sum(asked) / len(asked) if asked else math.nan


def digits_reward(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    """Return the rollout reward of VideoScore2 (arXiv 2509.22799) for an answer in digits.

    It is 1 if all digits are right, and 0.7, 0.4 or 0.1 if one, two or three of them are wrong by 1 and none by more; 0
    otherwise.

    Args:
        text: Text of the thought; without a valid answer in digits the reward is 0.
        truth: Annotated dimension scores.
        num_tokens: Number of tokens of the thought, which is not used.

    Raises:
        ValueError: If the annotated scores are missing or invalid.

    >>> perfect = {"subject": 2, "dynamics": 2, "camera": 2, "environment": 2, "style": 2}
    >>> said = '{"dimension_scores": {"subject": 5, "dynamics": 5, "style": %d}}'
    >>> [digits_reward(said % digit, perfect, 0) for digit in (5, 4, 3)]
    [1.0, 0.7, 0.0]
    """
    try:
        scores = parse_scores({name: NOT_ASKED if score is None else score for name, score in (truth or {}).items()})
    except AnswerError as error:
        raise ValueError(f"the reward for digits needs annotated scores: {error}") from error
    try:
        said = said_values(text, DIGITS)
    except AnswerError:
        return 0.0
    distances = [abs(one - _digit(scores, name)) for one, name in zip(said, ASPECTS, strict=True)]
    return (1.0, 0.7, 0.4, 0.1)[round(sum(distances))] if max(distances) <= 1 else 0.0


def comparison(first: str, second: str, choice: ChoiceSettings) -> str:
    """Write a thought about two videos from the teacher's thoughts about each: what it found of each, and the verdict.

    It has the scores that were found of the first video, then those of the second; the higher overall score wins. Each
    line is an answer as the tiny backbone writes it.

    Args:
        first: The teacher's thought about the first video.
        second: The teacher's thought about the second video.
        choice: Words of the verdict.

    Returns:
        The thought; empty if the verdict is a tie and there are no words for it.
    """
    if (verdict := choice.words.get(outcome_of(_found(first, second)) or "")) is None:
        return ""
    scores = "\n".join(thought[slice(*find_answer(thought))] for thought in (first, second))
    end = "</answer>" if choice.lead == "<answer>" else ""
    return f"<think>{scores}{END_OF_THINKING}{choice.lead}{verdict}{end}"


def _found(first: str, second: str) -> float:
    """Return the preference that follows from the overall scores of the teacher's thoughts about two videos."""
    return _compare(*(parse_answer(thought).overall or 0.0 for thought in (first, second)))


def _comparisons(pair: Pair, choice: ChoiceSettings) -> tuple[str, str]:
    """Return the thoughts about both videos with A first and with B first; empty where the verdict is not the label."""
    a, b = pair.a.thought, pair.b.thought
    if _found(a, b) != pair.preference[0]:
        return "", ""
    return comparison(a, b, choice), comparison(b, a, choice)


def _digit(scores: DimensionScores, name: str) -> int:
    """Return the rating of an aspect as a digit; what is not asked for has no flaw."""
    value = rating(scores, name)
    return 5 if math.isnan(value) else round(value)


def _ending(thought: str, form: AnswerForm) -> str:
    """Return a thought of the teacher with an answer of this form, which says what the thought found."""
    if form == "scores":
        return thought
    found = parse_answer(thought).scores
    digits = {name: _digit(found, name) for name in ASPECTS}
    said = {
        SAID_AS[name]: _grade(digits[name]) if form == "grades" else digits[name] for name in reversed(list(ASPECTS))
    }
    answer = f"<answer>{json.dumps({'dimension_scores': said})}</answer>"
    return answer if form == "grades" else f"{thought.partition(END_OF_THINKING)[0]}{END_OF_THINKING}{answer}"


def _grade(digit: int) -> int:
    return 2 if digit == 5 else 1 if digit >= 3 else 0


def _compare(a: float, b: float) -> float:
    """Return +1, -1 or 0 for the higher rating; nan if one is not known."""
    return math.nan if math.isnan(a + b) else float((a > b) - (a < b))
