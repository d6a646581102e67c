"""Schema of the `<answer>` block that ends a thought: writing, parsing and validation.

A model or a teacher may have written anything: reading takes time linear in the text, and raises `AnswerError` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

from descore.types import DIMENSIONS, DimensionScores

PRIMARY = DIMENSIONS[:2]
SECONDARY = DIMENSIONS[2:]
NOT_ASKED = "N/A"

END_OF_THINKING = "</think>"
_OPEN, _CLOSE = "<answer>", "</answer>"
_FENCE, _LANGUAGE = "```", "json"
_OVERALL = '"overall_score"'

_SHORT = Repr()  # of any value, however long or deep
_SHORT.maxother = _SHORT.maxstring = 80


class AnswerError(ValueError):
    """Raised for a missing or malformed answer; the message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Content of an `<answer>` block.

    Attributes:
        scores: Score of each of the five dimensions.
        overall: Overall score from 1.0 to 5.0; None if the answer has none.
    """

    scores: DimensionScores
    overall: float | None = None


def write_thought(think: str, answer: Answer) -> str:
    """Write a thought: free text in `<think>`, followed by the answer block.

    >>> write_thought("A dog.", Answer(dict.fromkeys(DIMENSIONS, 2), 5.0)).partition("<answer>")[0]
    '<think>A dog.</think>'
    """
    return f"<think>{think}</think>{write_answer(answer)}"


def write_answer(answer: Answer) -> str:
    """Write an answer block, in the schema that `parse_answer` reads.

    >>> write_answer(Answer({"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}, 3.5))
    '<answer>{"dimension_scores": {"subject": 2, "dynamics": 1, "camera": "N/A", "environment": 0, "style": 2}, \
"overall_score": 3.5}</answer>'
    """
    scores = {name: NOT_ASKED if answer.scores[name] is None else answer.scores[name] for name in DIMENSIONS}
    payload: dict[str, Any] = {"dimension_scores": scores}
    if answer.overall is not None:
        payload["overall_score"] = answer.overall
    return f"<answer>{json.dumps(payload)}</answer>"


def find_answer(thought: str) -> tuple[int, int]:
    """Find the JSON of a thought's answer: in the last closed `<answer>` block after the last `</think>`.

    A mention of `<answer>` in the reasoning is no answer. The JSON may stand in a Markdown fence.

    Returns:
        Start and end of the JSON in the thought.

    Raises:
        AnswerError: If there is no closed answer block.

    >>> thought = "<think>It ends in <answer>, I think.</think><answer>```json {} ```</answer>"
    >>> thought[slice(*find_answer(thought))]
    '{}'
    """
    conclusion = thought.rfind(END_OF_THINKING) + 1
    start = thought.rfind(_OPEN, conclusion, max(thought.rfind(_CLOSE, conclusion), 0))
    if start < 0:
        raise AnswerError("expected a closed <answer>...</answer> block after the reasoning, found none")
    start, end = _strip(thought, start + len(_OPEN), thought.find(_CLOSE, start))
    if thought.startswith(_FENCE, start, end) and thought.endswith(_FENCE, start + len(_FENCE), end):
        start, end = start + len(_FENCE), end - len(_FENCE)
        start, end = _strip(thought, start + len(_LANGUAGE) * thought.startswith(_LANGUAGE, start, end), end)
    return start, end


def parse_answer(thought: str) -> Answer:
    """Parse the answer of a thought, as `find_answer` finds it.

    The key `dimensional_scores` of the published code is accepted too.

    Raises:
        AnswerError: If the thought has no closed answer block, the block is not a JSON object, a dimension is missing,
            or a score is out of range.

    >>> answer = parse_answer(write_thought("A dog.", Answer(dict.fromkeys(DIMENSIONS, 1), 3.5)))
    >>> answer.scores["style"], answer.overall
    (1, 3.5)
    """
    start, end = find_answer(thought)
    try:
        payload = json.loads(thought[start:end])
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets a thousand deep
        raise AnswerError(f"the <answer> block is not JSON: {error}") from error
    if not isinstance(payload, dict):
        raise AnswerError(f"expected a JSON object in <answer>, got {type(payload).__name__}")
    scores = payload.get("dimension_scores", payload.get("dimensional_scores"))
    return Answer(parse_scores(scores), _parse_overall(payload.get("overall_score")))


def locate_overall(thought: str) -> int:
    """Return the index, in a thought, of the first digit of its overall score.

    Raises:
        AnswerError: If the answer is malformed, or its overall score does not begin with a digit from 1 to 5.

    >>> thought = write_thought("", Answer(dict.fromkeys(DIMENSIONS, 1), 3.5))
    >>> thought[locate_overall(thought) :]
    '3.5}</answer>'
    """
    overall = parse_answer(thought).overall
    start, end = find_answer(thought)
    colon = thought.find(":", thought.rfind(_OVERALL, start, end) + len(_OVERALL), end)
    digit, _ = _strip(thought, colon + 1, end)
    if overall is None or thought[digit : digit + 1] != str(int(overall)):
        raise AnswerError(f"expected an overall_score that begins with a digit from 1 to 5, got {overall!r}")
    return digit


def parse_scores(scores: Any) -> DimensionScores:
    """Validate dimension scores: the text "2" becomes 2, and "N/A" in any case becomes None.

    Raises:
        AnswerError: If the scores are not a mapping, a dimension is missing, or a value is not 0, 1, 2 or N/A.

    >>> parse_scores({"subject": 2, "dynamics": "1", "camera": "n/a", "environment": 0, "style": 2})
    {'subject': 2, 'dynamics': 1, 'camera': None, 'environment': 0, 'style': 2}
    """
    if not isinstance(scores, Mapping):
        raise AnswerError(f"expected an object with the dimensions {', '.join(DIMENSIONS)}, got {_SHORT.repr(scores)}")
    if missing := [name for name in DIMENSIONS if name not in scores]:
        raise AnswerError(f"expected a score for every dimension, found none for {', '.join(missing)}")
    return {name: _parse_score(name, scores[name]) for name in DIMENSIONS}


def overall_score(scores: DimensionScores) -> float:
    """Compute the overall score that the instruction assigns to dimension scores, from 1.0 to 5.0.

    The primary dimensions select a band: 4 to 4.99 both are 2; 3 to 3.99 one is 1; 2 to 2.99 one is 0; 1 to 1.99 both
    are 0. The mean of all scores that are not N/A places the result within the band. 5 is reserved for no flaw at all.

    >>> overall_score({"subject": 2, "dynamics": 2, "camera": 2, "environment": None, "style": 2})
    5.0
    >>> overall_score({"subject": 2, "dynamics": 0, "camera": 1, "environment": None, "style": 2})
    2.62
    """
    asked = [value for value in scores.values() if value is not None]
    primaries = [value for value in (scores[name] for name in PRIMARY) if value is not None]
    share = sum(asked) / (2 * len(asked)) if asked else 1.0
    if share == 1.0:
        return 5.0
    band = 4 - primaries.count(0) - (1 if 0 in primaries or 1 in primaries else 0)
    return round(max(band, 1) + 0.99 * share, 2)


def _parse_score(name: str, value: Any) -> int | None:
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if text.upper() in {"N/A", "NA"}:
        return None
    if text in {"0", "1", "2"}:
        return int(text)
    raise AnswerError(f"expected 0, 1, 2 or N/A for {name}, got {_SHORT.repr(value)}")


def _parse_overall(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 5:
        return float(value)
    raise AnswerError(f"expected overall_score between 1.0 and 5.0, got {_SHORT.repr(value)}")


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out the white space at both ends of a slice."""
    inner = text[start:end]
    return end - len(inner.lstrip()), start + len(inner.rstrip())
