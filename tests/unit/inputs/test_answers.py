"""What an answer says: named fields by pattern and JSON path, words, the place of digits, and what is no answer."""

import math
import time
from dataclasses import replace

import pytest

from descore.answer import Answer, AnswerError, write_thought
from descore.inputs.answers import AnswerSettings, locate_digits, said_values
from descore.inputs.typed_json import typed
from descore.types import DIMENSIONS

UNIFIED = AnswerSettings({
    "alignment": r"Alignment Score \(1-5\): (\S+)",
    "physics": r"Physics Score \(1-5\): (\S+)",
})
NESTED = AnswerSettings({"style": "$.scores.style", "second": '$["all of it"][1]'}, lowest=0, highest=9)


def said(text: str, settings: AnswerSettings) -> list[float]:
    return said_values(text, settings)


def test_without_fields_the_overall_score_of_our_own_answer_is_read():
    text = write_thought("It is 2.", Answer(dict.fromkeys(DIMENSIONS, 1), 3.5))
    assert said(text, AnswerSettings()) == [3.5]
    (place,) = locate_digits(text, AnswerSettings())
    assert text[place:] == "3.5}</answer>"


def test_fields_are_looked_for_after_the_thought_and_not_in_it():
    thought = "<think>Alignment Score (1-5): 1\nPhysics Score (1-5): 1</think>"
    answer = "Alignment Score (1-5): 4.25\nPhysics Score (1-5): 3"
    assert said(thought + answer, UNIFIED) == said(answer, UNIFIED) == [4.25, 3.0]
    assert said(f"{thought}One of 1: <answer>{answer}</answer> Physics Score (1-5): 5", UNIFIED) == [4.25, 3.0]
    with pytest.raises(AnswerError, match="has no alignment: expected what matches"):
        said(thought, UNIFIED)
    with pytest.raises(AnswerError, match="does not end: expected </think>"):
        said(f"<think>{answer}", UNIFIED)


def test_the_last_match_counts_and_its_digit_is_located():
    settings = AnswerSettings({"b": r"b:(.*)", "a": r"a: (\S+)"})
    text = "a: 2 \na: 4.5\nb:  3 "
    assert said(text, settings) == [3.0, 4.5], "in the order of the fields"
    assert [text[place:] for place in locate_digits(text, settings)] == ["3 ", "4.5\nb:  3 "]


def test_json_paths_reach_into_objects_and_lists_wherever_the_json_stands():
    text = 'So: {"style": 1, "scores": {"a": [{"style": 7}], "style": "3"}, "all of it": [1, 8.5, 2]} and more'
    for wrapped in (text, f"<think>{text.replace('8.5', '1')}</think><answer>```json\n{text[4:-9]}\n```</answer>"):
        assert said(wrapped, NESTED) == [3.0, 8.5]
        assert [wrapped[place] for place in locate_digits(wrapped, NESTED)] == ["3", "8"]
    twice = '{"scores": {"style": 1, "style": 2}, "all of it": [0, 9]}'
    assert said(twice, NESTED) == [2.0, 9.0], "as JSON has it, the last of equal keys"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing", "has no style: expected JSON with"),
        ('{"scores": 3}', "found no style"),
        ('{"scores": {"style": 3}, "all of it": [1]}', "has no second: .* found no 1"),
        ('{"scores": {"style": 3}, "all of it": {"1": 2}}', "found no 1"),
        (
            '{"scores": {"style": null}, "all of it": [1, 2]}',
            "the style of the answer is 'null'; expected",
        ),
        ('{"scores": {"style": true}, "all of it": [1, 2]}', "is 'true'"),
        ('{"scores": {"style": 10}, "all of it": [1, 2]}', "is '10'; expected a number from 0 to 9"),
        ('{"scores": {"style": NaN}, "all of it": [1, 2]}', "is 'NaN'"),
        ('{"scores": {"style": "1e0"}, "all of it": [1, 2]}', "is '1e0'"),
        ('{"scores": {"style": [2]}, "all of it": [1, 2]}', r"is '\[2\]'"),
        ('{"scores": {"style": 3', "expected JSON"),
        ("[" * 100_000, "has no style"),
        ('{"a":' * 100_000, "has no style"),
        ('{"scores": {"style": ' + "9" * 5000 + "}}", "has no style"),
    ],
)
def test_what_is_not_there_or_not_legal_is_told_by_its_field(text, reason):
    with pytest.raises(AnswerError, match=reason):
        said(text, NESTED)


@pytest.mark.parametrize("value", ["high", "4/5", "0.9", "5.1", "-3", "nan", "1_0", "٣", "4..", "4.5.1", ""])
def test_a_number_is_a_plain_one_within_its_range(value):
    with pytest.raises(AnswerError, match=r"the a of the answer is .* expected a number from 1 to 5"):
        said(f"a: {value};", AnswerSettings({"a": "a: ([^;]*);"}))


def test_words_have_their_values_in_any_case_and_others_have_none():
    settings = AnswerSettings({"a": r"a: (\w+)"}, {"Good": 0.9, "Normal": 0.2, "Bad": 0.05})
    assert [said(f"a: {word}.", settings) for word in ("Good", "normal", "BAD")] == [[0.9], [0.2], [0.05]]
    with pytest.raises(AnswerError, match="is 'Goodish'; expected Good, Normal, Bad"):
        said("a: Goodish", settings)


def test_a_number_whose_whole_part_is_no_digit_has_no_distribution():
    settings = AnswerSettings({"a": r"a: (\S+)"}, lowest=0, highest=20)
    assert said("a: 10", settings) == [10.0]
    for value in ("10", ".5", "+3", "04"):
        with pytest.raises(AnswerError, match="whole part is a digit from 0 to 9"):
            locate_digits(f"a: {value}", settings)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"fields": {"a": "a: "}}, r"'a: ' for 'a'; expected a regular expression with one group, .* it has 0"),
        ({"fields": {"a": "(a)(b)"}}, "it has 2"),
        ({"fields": {"a": "(a"}}, "expected a regular expression: "),
        ({"fields": {"a": "$"}}, "expected a JSON path such as"),
        ({"fields": {"a": "$.a[x]"}}, "expected a JSON path such as"),
        ({"fields": {"a": "$a"}}, "expected a JSON path such as"),
        ({"words": {"Good": 1.0}}, "expected fields, got none"),
        ({"fields": {"a": "(.)"}, "words": {"Good": 1.0, "good": 2.0}}, "differ in more than case"),
        ({"combine": "max"}, "expected one of mean, sum"),
        ({"lowest": 5}, "lowest is 5 and answer.highest 5"),
        ({"temperature": 0}, "temperature is 0; expected"),
        ({"temperature": float("inf")}, "temperature is inf; expected"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        AnswerSettings(**options)


def test_settings_come_back_from_json():
    values = {"fields": {"a": "$.a"}, "lowest": 0}
    assert typed(AnswerSettings, values, "answer") == AnswerSettings({"a": "$.a"}, lowest=0)


def test_a_value_at_which_a_text_was_cut_off_may_be_half_a_value():
    settings = AnswerSettings({"style": r"style: ([.0-9]+)"})
    with pytest.raises(AnswerError, match="cut off at the style"):
        said_values("style: 4", settings, whole=False)
    assert said_values("style: 4", settings) == said_values("style: 4;", settings, whole=False) == [4]


def test_values_are_combined_by_their_mean_or_sum_or_stay_apart():
    assert AnswerSettings().combined([1.0, 2.0], 1) == [1.5]
    assert AnswerSettings(combine="sum").combined([1.0, 2.0], 1) == [3.0]
    assert AnswerSettings(combine="sum").combined([1.0, 2.0], 2) == [1.0, 2.0]


def test_a_field_that_does_not_apply_is_left_out():
    settings = AnswerSettings({"a": r"a: (\S+)", "b": r"b: (\S+)"}, absent="N/A")
    values = said("a: 4 b: n/a", settings)
    assert values == pytest.approx([4.0, math.nan], nan_ok=True)
    assert settings.combined(values, 1) == [4.0]
    with pytest.raises(AnswerError, match="the answer says N/A for a, b; expected a value"):
        said("a: N/A b: N/A", settings)
    with pytest.raises(AnswerError, match="the a of the answer is 'N/A'; expected a number from 1 to 5"):
        said("a: N/A b: 2", replace(settings, absent=""))


@pytest.mark.parametrize("place", [r"(?:x+x+)+(y)", r"(?:a|a)*c(d)", r"(x+)*\1z"])
def test_a_regular_expression_that_takes_forever_has_a_reason(place):
    text = "x" * 4000 + " " + "a" * 4000 + " y c d z"
    began = time.process_time()
    with pytest.raises(AnswerError, match=r"the style of the answer: .* was not found within 0.5 seconds"):
        said(text, AnswerSettings({"style": place}))
    assert time.process_time() - began < 5


def test_a_regular_expression_of_any_length_is_refused():
    with pytest.raises(
        ValueError, match="has a regular expression of 1002 characters for 'style'; expected at most 1000"
    ):
        AnswerSettings({"style": f"({'a' * 1000})"})
