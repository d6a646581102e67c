"""Rules that grade one sampled thought: pure functions of its text, its length, and what is known of its videos."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from descore.answer import END_OF_THINKING, NOT_ASKED, AnswerError, overall_score, parse_answer, parse_scores
from descore.types import DIMENSIONS, DimensionScores


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a thought about two videos says of them, as it saw them: "A" is the first, "B" the second.

    Attributes:
        said: The outcome that it says, "A", "tie" or "B"; None if no choice stands in it.
        right: The outcome that people chose; None without a usable label.
        whole: Whether it closes its reasoning and ends with its choice.
    """

    said: str | None
    right: str | None
    whole: bool


def quality_reward(text: str, truth: Mapping[str, Any] | None) -> float:
    """Return the share of the five dimension scores of a thought that equal the annotated ones.

    The text "2" equals 2, and N/A equals N/A. A thought with a missing or malformed answer gets 0.

    Args:
        text: Text of the thought.
        truth: Annotated score of each dimension: 0, 1, 2, or None or "N/A" for N/A.

    Raises:
        ValueError: If the annotated scores are missing or invalid.

    >>> from descore.answer import Answer, write_thought
    >>> truth = {"subject": 2, "dynamics": 2, "camera": "N/A", "environment": 2, "style": 0}
    >>> quality_reward(write_thought("", Answer({**truth, "camera": None, "style": 1})), truth)
    0.8
    """
    annotated = _annotated(truth)
    try:
        scores = parse_answer(text).scores
    except AnswerError:
        return 0.0
    return sum(scores[name] == annotated[name] for name in DIMENSIONS) / len(DIMENSIONS)


def agreement_reward(text: str, truth: Mapping[str, Any] | None) -> float:
    """Return 1 - |overall - true overall| / 4, for a model whose reward is the overall score in its thought.

    The true overall score is `descore.answer.overall_score` of the annotated scores. A thought with a malformed answer
    or without an overall score gets 0.

    Args:
        text: Text of the thought.
        truth: Annotated score of each dimension: 0, 1, 2, or None or "N/A" for N/A.

    Raises:
        ValueError: If the annotated scores are missing or invalid.

    >>> from descore.answer import Answer, write_thought
    >>> perfect = {"subject": 2, "dynamics": 2, "camera": 2, "environment": 2, "style": 2}
    >>> agreement_reward(write_thought("", Answer(perfect, overall=4.0)), perfect)
    0.75
    """
    true_overall = overall_score(_annotated(truth))
    try:
        overall = parse_answer(text).overall
    except AnswerError:
        return 0.0
    return 0.0 if overall is None else 1 - abs(overall - true_overall) / 4


def format_reward(text: str) -> float:
    """Return 1 if a closed `<think>...</think>` is followed by a valid answer that ends the thought, else 0.

    A valid answer has legal scores of all five dimensions. Text after the answer gives 0: it would earn length reward
    without saying anything, and policies learn to exploit that.

    >>> from descore.answer import Answer, write_thought
    >>> perfect = {"subject": 2, "dynamics": 2, "camera": 2, "environment": 2, "style": 2}
    >>> thought = write_thought("A dog.", Answer(perfect))
    >>> format_reward(thought), format_reward(thought + " And so on."), format_reward("<think>A dog.")
    (1.0, 0.0, 0.0)
    """
    reasoning, closed, conclusion = text.rpartition(END_OF_THINKING)
    if not closed or "<think>" not in reasoning:
        return 0.0
    if conclusion.partition("</answer>")[2].strip():
        return 0.0
    try:
        parse_answer(conclusion)
    except AnswerError:
        return 0.0
    return 1.0


def verdict_reward(verdict: Verdict) -> float:
    """Return 1 if a thought about two videos says the outcome that people chose, else 0; nan without a usable label.

    >>> [verdict_reward(Verdict(said, right, whole=True)) for said, right in (("A", "A"), (None, "B"), ("A", None))]
    [1.0, 0.0, nan]
    """
    return math.nan if verdict.right is None else float(verdict.said == verdict.right)


def length_reward(num_tokens: int, low: int = 500, high: int = 2000) -> float:
    """Return 0 for a thought of up to `low` tokens, 1 from `high` tokens, and rise linearly in between.

    Args:
        num_tokens: Number of tokens of the thought.
        low: Number of tokens up to which the reward is 0.
        high: Number of tokens from which the reward is 1.

    Raises:
        ValueError: If the bounds are not 0 <= low < high.

    >>> length_reward(499), length_reward(1250), length_reward(4096)
    (0.0, 0.5, 1.0)
    """
    if not 0 <= low < high:
        raise ValueError(f"expected length bounds with 0 <= low < high, got low {low} and high {high}")
    return min(max((num_tokens - low) / (high - low), 0.0), 1.0)


def consistency_reward(text: str) -> float:
    """Return 1 - |said - implied| / 4 for the overall score that a thought says and the one that its scores imply.

    The implied one is `descore.answer.overall_score` of the thought's own dimension scores, so no annotation is needed.
    R1-Reward (arXiv 2505.02835) asks a second model whether thought and answer agree. A thought without a valid answer
    or overall score gets 0.

    >>> from descore.answer import Answer, write_thought
    >>> perfect = {"subject": 2, "dynamics": 2, "camera": 2, "environment": 2, "style": 2}
    >>> [consistency_reward(write_thought("", Answer(perfect, said))) for said in (5.0, 3.0)]
    [1.0, 0.5]
    """
    try:
        return agreement_reward(text, parse_answer(text).scores)
    except AnswerError:
        return 0.0


def cosine_reward(num_tokens: int, end: int = 1024, *, correct: bool) -> float:
    """Return a reward that falls with the length along half a cosine: 1 to 0.5 if correct, 0 to -0.5 if not (VLM-R1).

    Args:
        num_tokens: Number of tokens of the thought.
        end: Number of tokens from which the reward stays at its lower end.
        correct: Whether the thought is correct.

    Raises:
        ValueError: If the end is below 1.

    >>> [cosine_reward(length, 100, correct=True) for length in (0, 50, 200)]
    [1.0, 0.75, 0.5]
    """
    if end < 1:
        raise ValueError(f"expected cosine_tokens of at least 1, got {end}")
    share = (1 + math.cos(math.pi * min(num_tokens / end, 1))) / 2
    return (0.5 if correct else -0.5) + 0.5 * share


def repetition_reward(text: str, num_words: int = 6) -> float:
    """Return minus the share of phrases of some words that occur before in the text; 0 for a text without (VLM-R1).

    Args:
        text: Text of the thought; words are divided by white space, and case does not matter.
        num_words: Number of words of a phrase.

    Raises:
        ValueError: If the number of words is below 1.

    >>> repetition_reward("The dog runs. the dog runs.", num_words=2)  # 2 of 5 a second time
    -0.4
    """
    if num_words < 1:
        raise ValueError(f"expected repetition_words of at least 1, got {num_words}")
    words = text.lower().split()
    phrases = [tuple(words[start : start + num_words]) for start in range(len(words) - num_words + 1)]
    return (len(set(phrases)) - len(phrases)) / len(phrases) if phrases else 0.0


def _annotated(truth: Mapping[str, Any] | None) -> DimensionScores:
    if isinstance(truth, Mapping):
        truth = {name: NOT_ASKED if value is None else value for name, value in truth.items()}
    try:
        return parse_scores(truth)
    except AnswerError as error:
        raise ValueError(
            f"invalid annotated scores: {error}; correct them in the table, or remove quality, agreement and cosine "
            "from the rollout weights"
        ) from error
