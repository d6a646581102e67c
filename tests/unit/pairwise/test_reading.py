"""The choice between two videos: where it stands, and its probabilities there."""

import math

import pytest
import torch
from torch.testing import assert_close

from descore.inputs.choice import ChoiceError, ChoiceSettings, TokenisedChoice, tokenise_choice
from descore.pairwise.reading import read_choices, told_apart
from descore.thinking.readout import ReadoutError, choose_source
from descore.types import Prefix, Thought
from tests.helpers.examples import make_frames
from tests.parity.plain import plain_forward, stock
from tests.unit.pairwise.conftest import CHOICE


class Letters:
    """A tokenizer with one token for each character."""

    def encode(self, text, **_):
        return list(map(ord, text))


def test_outcomes_are_told_apart_at_the_first_token_that_no_other_has():
    choice = tokenise_choice("x", ChoiceSettings("", first="a1z", second="a2", tie="b"), Letters())
    texts = ["".join(map(chr, row)) for row in choice.token_ids]
    assert (texts, choice.start) == (["xa1", "xb", "xa2"], 1), "in the order A, tie, B"


def test_outcomes_of_one_place_have_all_before_it_in_common():
    choice = tokenise_choice("", ChoiceSettings("", first="is 1", second="is 2", tie=""), Letters())
    assert choice.start == 3
    assert len(choice.token_ids) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>Video 1 is better</think> <answer>Video 2 is better</answer>", "B"),
        ("<answer>Video 1 is better</answer> no: <answer>\nboth videos are equally good", "tie"),
        ("<answer>VIDEO 1 IS BETTER", "A"),
    ],
)
def test_the_last_answer_says_the_outcome(text, said):
    assert ChoiceSettings().said(text) == said


@pytest.mark.parametrize("text", ["Video 1 is better", "<answer>Video 3 is better", "<answer>"])
def test_a_thought_without_a_choice_is_told(text):
    with pytest.raises(ChoiceError, match=r"answer|expected a choice of"):
        ChoiceSettings().said(text)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("<think>so</think>\n<answer>Video 2 is better</answer>\n", True),
        ("<think>so</think><answer>video 2 is better", True),
        ("<think>so<answer>Video 2 is better</answer>", False),
        ("so</think><answer>Video 2 is better</answer>", False),
        ("<think>so</think>Video 2 is better", False),
        ("<think><answer>Video 2 is better</answer></think>", False),
        ("<think>so</think><answer>Video 3 is better</answer>", False),
        ("<think>so</think><answer>Video 2 is better</answer>, or not", False),
    ],
)
def test_a_whole_thought_closes_its_reasoning_and_ends_with_its_choice(text, whole):
    assert ChoiceSettings().is_whole(text) == whole


@pytest.mark.parametrize("words", [("a", "ab", "c"), ("a", "a", "b"), ("", "a", "b"), ("a", "b", "B")])
def test_words_that_cannot_be_told_apart_are_refused(words):
    with pytest.raises(ValueError, match="choice: expected"):
        ChoiceSettings("<answer>", *words)


def prefixes(model, prompt="a red circle") -> tuple[Prefix, Prefix]:
    one, other = make_frames(4, 32, 48, seed=1), make_frames(2, 32, 32, seed=2)
    return model.processor.prefix(prompt, one, other), model.processor.prefix(prompt, other, one)


def test_every_token_from_the_first_that_differs_tells_an_outcome_apart():
    places, owners = told_apart([TokenisedChoice(((5, 6, 1), (5, 6, 2, 3)))])
    assert places.tolist() == [2, 5, 6]
    assert owners.tolist() == [0, 1, 1]


def test_probabilities_are_those_of_one_sequence_per_outcome_through_transformers(judge):
    """The other side is transformers' own forward of prefix and words: the product of their tokens' probabilities."""
    pairs, texts = prefixes(judge), [("", "<think>Judge</think><answer>"), ("It is red. <answer>",)]
    packed = judge.processor.pack(pairs, [[Thought()]] * 2)
    plain, found = stock(judge), read_choices(judge, packed, texts)
    for prefix, row, readout in zip(pairs, texts, found, strict=True):
        for text, values in zip(row, readout.rewards, strict=True):
            choice = tokenise_choice(text or "<answer>", CHOICE, judge.processor.tokenizer)
            totals = []
            for ids in choice.token_ids:
                _, logprobs = plain_forward(plain, prefix, Thought(ids))
                totals.append(logprobs[choice.start :].sum())
            assert_close(values, torch.stack(totals).softmax(0), atol=1e-5, rtol=0)
            assert float(values.sum()) == pytest.approx(1, abs=1e-6)
    assert [row.errors for row in found] == [(None, None), (None,)]


def test_a_thought_without_a_place_has_no_probabilities_and_its_sibling_does(judge):
    packed = judge.processor.pack(prefixes(judge)[:1], [[Thought()]])
    (readout,) = read_choices(judge, packed, [("no lead here", "<answer>")])
    assert readout.rewards[0].isnan().all()
    assert "no '<answer>'" in readout.errors[0]
    assert_close(readout.mean(), readout.rewards[1])


def test_a_model_without_a_tie_gives_it_no_probability(build):
    choice = ChoiceSettings("", first="yes", second="no", tie="")
    model = build(template="{video:1}{video:2}{prompt}", reward_from="choice", choice=choice, thoughts=False)
    (readout,) = read_choices(model, model.processor.pack(prefixes(model)[:1], [[Thought()]]), [("",)])
    first, tie, second = readout.rewards[0].tolist()
    assert tie == 0
    assert first + second == pytest.approx(1)


def test_said_words_are_read_as_certain(judge):
    said = [("<answer>left</answer>", "<answer>same</answer>", "none")]
    (readout,) = read_choices(judge, judge.processor.pack(prefixes(judge)[:1], [[Thought()]]), said, "said_choice")
    assert readout.rewards[:2].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert math.isnan(readout.rewards[2, 0])
    assert readout.errors[2] is not None


def test_a_reading_of_the_other_judgement_is_refused(judge, qwen3):
    with pytest.raises(ReadoutError, match=r"compares two videos; it has no 'overall_score'.*choice or said_choice"):
        choose_source(judge.settings, "overall_score", thoughts=True)
    with pytest.raises(ReadoutError, match=r"scores one video; it has no 'choice'"):
        choose_source(qwen3.settings, "choice", thoughts=True)
    with pytest.raises(ReadoutError, match="let the model think"):
        choose_source(judge.settings, "said_choice", thoughts=False)
