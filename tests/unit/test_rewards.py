from math import isnan, nan

import pytest

from descore.answer import END_OF_THINKING, Answer, write_answer, write_thought
from descore.rewards import (
    OF_ONE_VIDEO,
    RULES,
    RolloutReward,
    Rubric,
    Verdict,
    agreement_reward,
    consistency_reward,
    cosine_reward,
    format_reward,
    length_reward,
    quality_reward,
    repetition_reward,
)

TRUTH = {"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}
PERFECT = write_thought("Two dogs run.", Answer(TRUTH, 3.5))
NOT_A_FUNCTION = 3


def thought(**changes) -> str:
    return write_thought("Two dogs run.", Answer(TRUTH | changes))


def share_of_dogs(text, truth, num_tokens):
    return text.count("dog") / num_tokens


def cannot_tell(text, truth, num_tokens):
    return nan


def broken(text, truth, num_tokens):
    raise KeyError("no such thing")


MALFORMED = {
    "empty": "",
    "no tags": "Two dogs run.",
    "no answer": "<think>Two dogs run.</think>",
    "cut in the thought": PERFECT[:10],
    "cut in the answer": PERFECT[:-12],
    "not JSON": "<think></think><answer>two</answer>",
    "not an object": "<think></think><answer>[2, 1]</answer>",
    "a dimension missing": PERFECT.replace('"style": 2', '"other": 2'),
    "a value not legal": PERFECT.replace('"style": 2', '"style": 3'),
    "a score that is not whole": PERFECT.replace('"style": 2', '"style": 1.5'),
    "a truth value": PERFECT.replace('"dynamics": 1', '"dynamics": true'),
    "an overall score not legal": PERFECT.replace("3.5", "9"),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (thought(), 1.0),
        (thought(subject=1), 0.8),
        (thought(subject=1, style=0), 0.6),
        (thought(camera=2), 0.8),
        (thought(subject=None), 0.8),
        (thought(subject=0, dynamics=0, camera=0, environment=1, style=0), 0.0),
    ],
)
def test_quality_is_the_share_of_equal_scores(text, expected):
    assert quality_reward(text, TRUTH) == expected


@pytest.mark.parametrize(
    ("overall", "expected"),
    # TRUTH amounts to 3 + 0.99 * 5 / 8 = 3.62.
    [(3.62, 1.0), (3.5, 1 - 0.12 / 4), (5, 1 - 1.38 / 4), (1, 1 - 2.62 / 4), (None, 0.0)],
)
def test_agreement_is_how_near_the_overall_score_is_to_the_true_one(overall, expected):
    assert agreement_reward(write_thought("Two dogs run.", Answer(TRUTH, overall)), TRUTH) == pytest.approx(expected)


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_thought_agrees_with_nothing(text):
    assert agreement_reward(text, TRUTH) == 0.0


def test_agreement_needs_the_annotated_scores():
    with pytest.raises(ValueError, match="remove quality, agreement and cosine from the rollout weights"):
        Rubric({"agreement": 1.0})(PERFECT, None, 10)


@pytest.mark.parametrize(
    ("overall", "expected"),
    # The thought's own scores, 2, 1, 0 and 2 of those asked, imply 3 + 0.99 * 5 / 8 = 3.62.
    [(3.62, 1.0), (4.62, 0.75), (1.62, 0.5), (None, 0.0)],
)
def test_consistency_is_how_near_the_said_overall_score_is_to_the_implied_one(overall, expected):
    text = write_thought("Two dogs run.", Answer(TRUTH, overall))
    assert consistency_reward(text) == pytest.approx(expected)
    assert Rubric({"consistency": 2.0})(text, None, 10).total == pytest.approx(2 * expected)


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_thought_is_consistent_with_nothing(text):
    assert consistency_reward(text) == 0.0


@pytest.mark.parametrize(
    ("num_tokens", "right", "wrong"),
    # cos(0) = 1, cos(pi / 3) = 1/2, cos(pi / 2) = 0, cos(pi) = -1.
    [(0, 1.0, 0.0), (100, 0.875, -0.125), (150, 0.75, -0.25), (300, 0.5, -0.5), (900, 0.5, -0.5)],
)
def test_the_cosine_falls_with_the_length_and_is_higher_for_a_correct_thought(num_tokens, right, wrong):
    assert cosine_reward(num_tokens, 300, correct=True) == pytest.approx(right)
    assert cosine_reward(num_tokens, 300, correct=False) == pytest.approx(wrong)
    rubric = Rubric({"cosine": 1.0}, cosine_tokens=300)
    four_of_five, three_of_five = thought(subject=1), thought(subject=1, style=0)
    assert rubric(four_of_five, TRUTH, num_tokens).total == pytest.approx(right)
    assert rubric(three_of_five, TRUTH, num_tokens).total == pytest.approx(wrong)


def test_the_cosine_needs_the_annotated_scores():
    with pytest.raises(ValueError, match="cosine from the rollout weights"):
        Rubric({"cosine": 1.0})(PERFECT, None, 10)


@pytest.mark.parametrize(
    ("text", "num_words", "expected"),
    [
        ("a b c d", 2, 0.0),
        ("a b a b a b", 2, -3 / 5),  # of ab ba ab ba ab, three occur before
        ("A b\na  B", 2, -1 / 3),  # of ab ba ab, one
        ("a a a a", 1, -3 / 4),
        ("a b", 3, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_is_the_share_of_phrases_that_occur_before(text, num_words, expected):
    assert repetition_reward(text, num_words) == pytest.approx(expected)
    assert Rubric({"repetition": 0.5}, repetition_words=num_words)(text, None, 3).total == pytest.approx(expected / 2)


@pytest.mark.parametrize("option", ["cosine_tokens", "repetition_words"])
def test_a_number_below_one_is_refused(option):
    with pytest.raises(ValueError, match=f"expected {option} of at least 1, got 0"):
        Rubric(**{option: 0})


def test_every_named_rule_runs():
    of_one, of_two = set(RULES) - {"verdict"}, set(RULES) - OF_ONE_VIDEO
    assert set(Rubric(dict.fromkeys(of_one, 0.1))(PERFECT, TRUTH, 10).parts) == of_one
    verdict = Verdict("A", "A", whole=True)
    assert set(Rubric(dict.fromkeys(of_two, 0.1))(PERFECT, {"verdict": "A"}, 10, verdict).parts) == of_two


def test_quality_compares_values_not_their_type():
    written = '<think></think><answer>{"dimensional_scores": {"subject": "2", "dynamics": " 1", "camera": "n/a", '
    written += '"environment": "0", "style": 2}}</answer>'
    assert quality_reward(written, TRUTH) == 1
    assert (
        quality_reward(PERFECT, {"subject": "2", "dynamics": "1", "camera": "N/A", "environment": 0, "style": 2}) == 1
    )


def test_format_accepts_what_the_instruction_asks_for():
    assert format_reward(PERFECT) == 1
    assert (
        format_reward(PERFECT.replace("<answer>", "\n<answer>\n```json\n").replace("</answer>", "\n```</answer>")) == 1
    )


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_thought_scores_zero(text):
    assert format_reward(text) == 0
    assert quality_reward(text, TRUTH) == 0


@pytest.mark.parametrize("more", ["</answer>", " ring, 79}", write_answer(Answer(TRUTH)), "<think></think>"])
def test_format_wants_nothing_after_the_answer(more):
    assert format_reward(PERFECT + "\n") == 1
    assert format_reward(PERFECT + more) == 0
    assert quality_reward(PERFECT + more, TRUTH) == (END_OF_THINKING not in more)


@pytest.mark.parametrize(
    ("text", "quality"),
    [
        (write_answer(Answer(TRUTH)), 1),
        (f"<think>{write_answer(Answer(TRUTH))}", 1),
        (f"<think>{write_answer(Answer(TRUTH))}</think>", 0),
        (f"{write_answer(Answer(TRUTH))}<think></think>", 0),
        (f"</think>{write_answer(Answer(TRUTH))}<think>", 1),
    ],
    ids=["no thought", "not closed", "answer in the thought", "answer before the thought", "closed before it opens"],
)
def test_format_wants_a_closed_thought_and_then_the_answer(text, quality):
    assert format_reward(text) == 0
    assert quality_reward(text, TRUTH) == quality


def test_an_answer_that_the_reasoning_mentions_spoils_nothing():
    text = PERFECT.replace("Two dogs", "I shall close with <answer>, then </answer>. Two dogs")
    assert text != PERFECT
    assert (format_reward(text), quality_reward(text, TRUTH)) == (1, 1)


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(0, 0), (500, 0), (650, 0.1), (1250, 0.5), (1999, 1499 / 1500), (2000, 1), (4096, 1)]
)
def test_length_rises_linearly(num_tokens, expected):
    assert length_reward(num_tokens) == pytest.approx(expected, abs=1e-12)


def test_length_bounds_are_free():
    assert [length_reward(n, low=10, high=20) for n in (10, 12, 15, 20)] == [0, 0.2, 0.5, 1]


def test_the_published_rubric_by_hand():
    """Four of five scores right: 0.7 * 0.8 + 0.1 * 1 + 0.2 * (1250 - 500) / 1500 = 0.56 + 0.1 + 0.1 = 0.76."""
    reward = Rubric()(thought(subject=1), TRUTH, 1250)
    assert reward == RolloutReward(0.76, {"quality": 0.8, "format": 1.0, "length": 0.5})


def test_a_rubric_of_its_own():
    """0.5 * 1 + 2 * 3 / 10 + 1 * (10 - 5) / 10 = 1.6; the format has weight 0 and shows all the same."""
    path = f"{__name__}.share_of_dogs"
    weights = {"quality": 0.5, path: 2.0, "length": 1.0, "format": 0.0}
    reward = Rubric(weights, length_low=5, length_high=15)(PERFECT.replace("</think>", " dog dog</think>"), TRUTH, 10)
    assert reward.parts == {"quality": 1.0, path: 0.3, "length": 0.5, "format": 1.0}
    assert reward.total == pytest.approx(1.6, abs=1e-12)


def test_a_negative_weight_is_a_penalty():
    reward = Rubric({"format": 1.0, f"{__name__}.share_of_dogs": -1.0})(PERFECT, TRUTH, 4)
    assert reward.total == 0.75


def test_equal_thoughts_get_equal_totals_whatever_the_order_of_the_weights():
    weights = {"quality": 0.7, "format": 0.1, "length": 0.2}
    totals = {Rubric(dict(order))(PERFECT, TRUTH, 1100).total for order in (weights.items(), [*weights.items()][::-1])}
    assert len(totals) == 1


def test_only_the_named_rules_run():
    assert Rubric({"length": 1.0})("anything", None, 2000).parts == {"length": 1.0}


def test_what_a_rule_cannot_tell_stays_unknown():
    assert isnan(Rubric({"format": 0.1, f"{__name__}.cannot_tell": 1.0})(PERFECT, TRUTH, 10).total)


def test_a_broken_rule_is_not_caught():
    rubric = Rubric({"format": 0.1, f"{__name__}.broken": 1.0})
    with pytest.raises(KeyError, match="no such thing"):
        rubric(PERFECT, TRUTH, 10)


@pytest.mark.parametrize("text", [PERFECT, MALFORMED["no tags"]])
@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (None, "got None"),
        ({}, "none for subject, dynamics, camera, environment, style"),
        ({"subject": 2, "dynamics": 1, "camera": 1, "style": 2}, "none for environment"),
        (TRUTH | {"style": 3}, "N/A for style, got 3"),
    ],
)
def test_malformed_truth_is_an_error_whatever_the_thought(text, truth, message):
    with pytest.raises(ValueError, match=rf"invalid annotated scores.*{message}.*in the table"):
        quality_reward(text, truth)


@pytest.mark.parametrize("weights", [{}, {"quality": 0.0, "format": 0.0}, {"quality": nan}, {"quality": float("inf")}])
def test_weights_that_count_nothing_are_refused(weights):
    with pytest.raises(ValueError, match=r"one that is not 0, got \{.*\}") as error:
        Rubric(weights)
    assert str(weights) in str(error.value)


@pytest.mark.parametrize(
    "name", ["qualty", "no_such_package.rule", f"{__name__}.no_such_rule", f"{__name__}.NOT_A_FUNCTION", ""]
)
def test_unknown_rules_are_refused(name):
    with pytest.raises(ValueError, match=r"expected quality, .*, repetition, or the dotted path") as error:
        Rubric({"quality": 0.7, name: 0.1})
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(("low", "high"), [(2000, 500), (500, 500), (-1, 5)])
def test_length_bounds_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match=f"got low {low} and high {high}"):
        Rubric(length_low=low, length_high=high)
