"""What a model says in the answer that ends its thought: named fields, their values, and where these stand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from descore.answer import END_OF_THINKING, AnswerError, find_answer, locate_overall, parse_answer

Combine = Literal["mean", "sum"]
"""How several values become one reward."""

JSON_PATH = "$"
"""First character of a field that is a JSON path; any other field is a regular expression."""

START_OF_THINKING = "<think>"

SECONDS, MAX_CHARACTERS = 0.5, 1000
"""Computing time for a regular expression on one answer, and its longest text: those of an export are anybody's."""

_STEP = re.compile(r'\.([^.\[\]"]+)|\["([^"]+)"\]|\[(\d{1,4})\]')
_NUMBER = re.compile(r"[+-]?([0-9]{1,16}(\.[0-9]{0,30})?|\.[0-9]{1,30})")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class AnswerSettings:
    r"""What a model says in its answer, and how that becomes a reward; stored in the exported folder.

    The answer follows the thought. It is the inside of the last closed `<answer>` block after the last `</think>`, or
    all of that text if there is no such block. A text that opens `<think>` and never closes it has no answer.

    Attributes:
        fields: Where each value stands in the answer, by the name of the field: a JSON path such as `$.scores.style` or
            `$["the style"][0]`, or a regular expression with one group, whose last match counts. Without any field, the
            `overall_score` of DeScore's answer is read.
        words: Value of each word that a field may say, in upper or lower case; if empty, fields say numbers.
        combine: "mean" or "sum" of the fields, for a model with one reward. A model with several rewards has one field
            for each, of the same name.
        lowest: Lowest number that a field may say.
        highest: Highest number that a field may say.
        temperature: Temperature of the probabilities of the digits.
        absent: What a field says that does not apply, such as "N/A", in upper or lower case: it is left out of the mean
            or the sum. Empty: every field has a value.

    Raises:
        ValueError: If a field is neither a JSON path nor a regular expression with one group, or a number is out of its
            range.

    >>> settings = AnswerSettings({"style": r"style: (\w+)", "motion": r"motion: (\w+)"}, {"Good": 0.9, "Bad": 0.05})
    >>> said_values("<think>style: bad</think>style: good, motion: bad.", settings)
    [0.9, 0.05]
    """

    fields: dict[str, str] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)
    combine: Combine = "mean"
    lowest: float = 1.0
    highest: float = 5.0
    temperature: float = 1.0
    absent: str = ""

    def __post_init__(self) -> None:
        for name, place in self.fields.items():
            _check_place(name, place)
        if self.words and not self.fields:
            raise ValueError("answer.words are the values of what answer.fields say; expected fields, got none")
        if len(_folded(self.words)) < len(self.words):
            raise ValueError(f"answer.words are {', '.join(self.words)}; expected words that differ in more than case")
        if self.combine not in get_args(Combine):
            raise ValueError(f"answer.combine is {self.combine!r}; expected one of {', '.join(get_args(Combine))}")
        if not self.lowest < self.highest:
            raise ValueError(
                f"answer.lowest is {self.lowest:g} and answer.highest {self.highest:g}; expected a lower lowest"
            )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"answer.temperature is {self.temperature:g}; expected a finite number above 0")

    @property
    def digits(self) -> tuple[int, ...]:
        """Digits that may begin a number from `lowest` to `highest`.

        >>> AnswerSettings().digits, AnswerSettings(lowest=0, highest=1.5).digits
        ((1, 2, 3, 4, 5), (0, 1))
        """
        return tuple(digit for digit in range(10) if int(max(self.lowest, 0)) <= digit <= self.highest)

    def combined(self, values: Sequence[float], num_rewards: int) -> list[float]:
        """Return the rewards of the values of all fields: one of each, or the mean or sum of those that are not nan.

        >>> AnswerSettings(combine="sum").combined([1.0, 2.0], 1), AnswerSettings().combined([1.0, 2.0], 2)
        ([3.0], [1.0, 2.0])
        >>> AnswerSettings().combined([1.0, math.nan, 2.0], 1)
        [1.5]
        """
        if num_rewards > 1:
            return list(values)
        known = [value for value in values if not math.isnan(value)]
        return [sum(known) / (len(known) if self.combine == "mean" else 1)]


class Said(NamedTuple):
    """What one field says.

    Attributes:
        name: Name of the field.
        value: Its value.
        start: Index in the text where it begins.
        end: Index in the text where it ends.
    """

    name: str
    value: float
    start: int
    end: int


def said_values(text: str, settings: AnswerSettings, *, whole: bool = True) -> list[float]:
    """Return the value that each field of an answer says; nan for a field that does not apply.

    Args:
        text: Text of the thought with its answer.
        settings: Fields and words.
        whole: Whether the text is whole; of one that was cut off, a value at the very end may be half a value.

    Raises:
        AnswerError: If there is no answer, or one of its values is missing or illegal, or no field applies; the message
            names the field.
    """
    if settings.fields:
        values = [said.value for said in _read(text, settings, whole)]
        if all(map(math.isnan, values)):
            raise AnswerError(f"the answer says {settings.absent} for {', '.join(settings.fields)}; expected a value")
        return values
    try:
        overall = parse_answer(text).overall
    except AnswerError as error:
        raise AnswerError(f"the thought has no valid answer: {error}") from error
    if overall is None:
        raise AnswerError("the answer of the thought has no overall_score")
    return [overall]


def locate_digits(text: str, settings: AnswerSettings, *, whole: bool = True) -> list[int]:
    """Return the index in a text of the leading digit of each number that its answer says.

    Raises:
        AnswerError: If a value is missing or illegal, or its whole part is not one digit.

    >>> locate_digits("a: 4.5", AnswerSettings({"a": r"a: ([.0-9]+)"}))
    [3]
    """
    if not settings.fields:
        return [locate_overall(text)]
    said = _read(text, settings, whole)
    for one in said:
        if text[one.start] != str(int(one.value)):
            raise AnswerError(
                f"the {one.name} of the answer is {text[one.start : one.end]!r}; expected a number whose whole part is "
                f"a digit from {settings.digits[0]} to {settings.digits[-1]}"
            )
    return [one.start for one in said]


def _read(text: str, settings: AnswerSettings, whole: bool) -> list[Said]:
    start, end = _answer_span(text)
    places = {name: _find(text, start, end, name, place) for name, place in settings.fields.items()}
    if cut := [name for name, (_, stop) in places.items() if not whole and stop == len(text)]:
        raise AnswerError(f"the thought was cut off at the {cut[0]} of its answer")
    return [Said(name, _value(name, text[slice(*span)], settings), *span) for name, span in places.items()]


def _answer_span(text: str) -> tuple[int, int]:
    """Return where the answer of a thought begins and ends."""
    after = text.rfind(END_OF_THINKING)
    if after < 0 and START_OF_THINKING in text:
        raise AnswerError(f"the thought does not end: expected {END_OF_THINKING} before the answer, found none")
    try:
        return find_answer(text)
    except AnswerError:
        return (after + len(END_OF_THINKING) if after >= 0 else 0), len(text)


def _find(text: str, start: int, end: int, name: str, place: str) -> tuple[int, int]:
    """Return where the value of a field begins and ends."""
    if place.startswith(JSON_PATH):
        first, last = _find_in_json(text[start:end], name, place)
        return start + first, start + last
    try:
        found = _engine().compile(place).finditer(text, start, end, timeout=SECONDS)
        matches = [match for match in found if match[1] is not None]
    except TimeoutError as error:
        raise AnswerError(f"the {name} of the answer: {place!r} was not found within {SECONDS:g} seconds") from error
    if not matches:
        raise AnswerError(f"the answer has no {name}: expected what matches {place!r}")
    first, last = matches[-1].span(1)
    return last - len(text[first:last].lstrip()), first + len(text[first:last].rstrip())


def _find_in_json(answer: str, name: str, path: str) -> tuple[int, int]:
    start = max(answer.find("{"), 0)
    try:
        _DECODER.raw_decode(answer, start)
        for step in _steps(path):
            start = _enter(answer, start, step)
        value, end = _DECODER.raw_decode(answer, start)
    except KeyError as error:
        raise AnswerError(f"the answer has no {name}: expected {path}, found no {error.args[0]}") from error
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer has no {name}: expected JSON with {path}: {error}") from error
    return (start + 1, end - 1) if isinstance(value, str) else (start, end)


def _enter(text: str, start: int, step: str | int) -> int:
    """Return where the value of a key, or of an index, begins in the valid JSON value that begins at `start`.

    Raises:
        KeyError: If there is none.
    """
    opening, is_object = text[start], isinstance(step, str)
    found, number, index = -1, 0, _skip(text, start + 1)
    while opening == ("{" if is_object else "[") and text[index] not in "]}":
        key: str | int = number
        if is_object:
            key, index = _DECODER.raw_decode(text, index)
            index = _skip(text, _skip(text, index) + 1)  # over the colon
        found = index if key == step else found
        index = _skip(text, _DECODER.raw_decode(text, index)[1])
        index = _skip(text, index + 1) if text[index] == "," else index
        number += 1
    if found < 0:
        raise KeyError(step)
    return found


def _skip(text: str, index: int) -> int:
    """Return the index after the white space that begins at `index`."""
    return _SPACE.match(text, index).end()  # type: ignore[union-attr]


def _steps(path: str) -> list[str | int]:
    """Return the keys and indices of a JSON path."""
    matches = [match.groups() for match in _STEP.finditer(path, len(JSON_PATH))]
    return [int(index) if index else key or quoted for key, quoted, index in matches]


def _value(name: str, cell: str, settings: AnswerSettings) -> float:
    """Return the value of what a field says; nan if it does not apply."""
    if settings.absent and cell.casefold() == settings.absent.casefold():
        return math.nan
    if settings.words:
        if (value := _folded(settings.words).get(cell.casefold())) is None:
            raise AnswerError(f"the {name} of the answer is {cell[:80]!r}; expected {', '.join(settings.words)}")
        return value
    if not _NUMBER.fullmatch(cell) or not settings.lowest <= float(cell) <= settings.highest:
        expected = f"expected a number from {settings.lowest:g} to {settings.highest:g}"
        raise AnswerError(f"the {name} of the answer is {cell[:80]!r}; {expected}")
    return float(cell)


def _folded(words: dict[str, float]) -> dict[str, float]:
    return {word.casefold(): value for word, value in words.items()}


def _check_place(name: str, place: str) -> None:
    where = f"answer.fields has {place!r} for {name!r}"
    if place.startswith(JSON_PATH):
        if _STEP.sub("", place) != JSON_PATH or place == JSON_PATH:
            raise ValueError(f'{where}; expected a JSON path such as $.scores.style or $["the style"][0]')
        return
    if len(place) > MAX_CHARACTERS:
        raise ValueError(
            f"answer.fields has a regular expression of {len(place)} characters for {name!r}; expected at most "
            f"{MAX_CHARACTERS}"
        )
    try:
        groups = _engine().compile(place).groups
    except _engine().error as error:
        raise ValueError(f"{where}; expected a regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"{where}; expected a regular expression with one group, the value; it has {groups}")


def _engine() -> Any:
    """Return `regex`, whose expressions have a limit of time; imported only where a field has an expression."""
    import regex  # type: ignore[import-untyped]

    return regex
