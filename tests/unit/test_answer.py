"""The answer of a thought: what is accepted, what is refused, and the overall score of the instruction."""

import json
from contextlib import suppress
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descore.answer import (
    Answer,
    AnswerError,
    locate_overall,
    overall_score,
    parse_answer,
    parse_scores,
    write_answer,
    write_thought,
)
from descore.rewards import agreement_reward, format_reward, quality_reward
from descore.types import DIMENSIONS

SCORES = {"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}
WRITTEN = {"subject": 2, "dynamics": "1", "camera": "n/a", "environment": 0, "style": "NA"}


def scores(subject: int | None, dynamics: int | None, *others: int | None) -> dict[str, int | None]:
    return dict(zip(DIMENSIONS, (subject, dynamics, *others), strict=True))


def test_what_is_written_is_read():
    for overall in (None, 3.5):
        assert parse_answer(write_thought("It is so.", Answer(SCORES, overall))) == Answer(SCORES, overall)


@pytest.mark.parametrize("key", ["dimension_scores", "dimensional_scores"])
@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", " ```\n{}``` "])
def test_both_keys_and_a_fence_are_accepted(key, fence):
    block = fence.replace("{}", json.dumps({key: WRITTEN}))
    assert parse_answer(f"<answer>{block}</answer>").scores == SCORES | {"style": None}


def test_the_last_answer_that_is_closed_counts():
    first, second = (write_thought("", Answer(scores(n, n, n, n, n), float(n + 1))) for n in (0, 2))
    assert parse_answer(first + second).overall == 3
    assert parse_answer(second + first + "<answer>").overall == 1
    one, other = (write_answer(Answer(scores(n, n, n, n, n), float(n + 1))) for n in (0, 2))
    assert parse_answer(f"<think>{other}</think>{one}{other}").overall == 3


@pytest.mark.parametrize("value", [3, -1, 1.5, True, "two", [2], ""])
def test_other_scores_are_refused(value):
    with pytest.raises(AnswerError, match="expected 0, 1, 2 or N/A for style"):
        parse_scores(WRITTEN | {"style": value})


@pytest.mark.parametrize("value", [0.99, 5.01, "4", True, [3]])
def test_other_overall_scores_are_refused(value):
    with pytest.raises(AnswerError, match=r"overall_score between 1\.0 and 5\.0"):
        parse_answer(f"<answer>{json.dumps({'dimension_scores': WRITTEN, 'overall_score': value})}</answer>")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (scores(2, 2, 2, None, 2), 5.0),
        (scores(2, 2, 1, 2, 2), 4 + 0.99 * 0.9),
        (scores(2, 1, 2, 2, 2), 3 + 0.99 * 0.9),
        (scores(1, 1, 2, 2, 2), 3 + 0.99 * 0.8),
        (scores(0, 2, 2, 2, 2), 2 + 0.99 * 0.8),
        (scores(0, 1, 2, 2, 2), 2 + 0.99 * 0.7),
        (scores(0, 0, 2, 2, 2), 1 + 0.99 * 0.6),
        (scores(0, 0, 0, 0, 0), 1.0),
        (scores(None, 2, 1, None, None), 4 + 0.99 * 0.75),
        (scores(*[None] * 5), 5.0),
    ],
)
def test_the_overall_score_of_dimension_scores(given, expected):
    """The primary dimensions choose the band, and the mean of what was asked for the place within it."""
    assert overall_score(given) == pytest.approx(expected, abs=0.005)


def test_the_digit_of_the_overall_score_is_that_of_the_last_answer():
    thought = write_thought("4", Answer(SCORES, 2.5)) + write_thought("", Answer(SCORES, 3.5))
    place = locate_overall(thought)
    assert thought[place:].startswith("3.5}")
    with pytest.raises(AnswerError, match="begins with a digit"):
        locate_overall(write_thought("", Answer(SCORES)))


PIECES = st.sampled_from([
    *("<think>", "</think>", "<answer>", "</answer>", "```", "```json", "{", "}", "[", "]", ":", ",", '"', " ", "\n"),
    *(
        '"dimension_scores"',
        '"dimensional_scores"',
        '"overall_score"',
        "2",
        "4.5",
        "1e999",
        "NaN",
        "-0",
        "true",
        "null",
    ),
    *(write_answer(Answer(dict.fromkeys(DIMENSIONS, 1), 3.5)), "[" * 2000, "9" * 5000, "\ud800", "\x00", "N/A"),
])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_any_text_is_an_answer_or_malformed(text):
    """Nothing else is raised, by any of the readers; the rewards are numbers."""
    truth = dict.fromkeys(DIMENSIONS, 1)
    with suppress(AnswerError):
        assert parse_answer(text).scores.keys() == set(DIMENSIONS)
    with suppress(AnswerError):
        assert text[locate_overall(text)] in "12345"
    assert format_reward(text) in {0.0, 1.0}
    assert 0 <= quality_reward(text, truth) <= 1
    assert 0 <= agreement_reward(text, truth) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 100_000,
        "<answer>```" + " " * 500_000 + "x</answer>",
        "<answer>" + "[" * 500_000 + "</answer>",
        "<think>" * 50_000 + "</think>" * 50_000 + "<answer>{}</answer>",
        '<answer>{"dimension_scores": {"subject": ' + "[" * 900 + "]" * 900 + "}}</answer>",
    ],
    ids=["tags", "fence", "brackets", "thoughts", "nested"],
)
def test_reading_takes_time_linear_in_the_text(text):
    """Half a megabyte in a moment; a quadratic reader took hours."""
    begun = process_time()
    for read in (parse_answer, locate_overall):
        with pytest.raises(AnswerError):
            read(text)
    assert process_time() - begun < 1.0
