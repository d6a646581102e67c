"""What a reward is read from, against one full forward per thought or question, and what happens without one."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from descore.answer import Answer, locate_overall, write_thought
from descore.inputs.checklist import Question, tokenise_question
from descore.model.reward_model import RewardModel
from descore.scoring import scorer as scoring
from descore.scoring.scorer import Scorer
from descore.thinking.readout import ReadoutError, choose_source, expected_scores, read_answers, read_rewards
from descore.types import DIMENSIONS, Group, Thought
from tests.helpers.examples import make_prefixes
from tests.parity.plain import plain_sequence, stock

SCORES = dict.fromkeys(DIMENSIONS, 1)
QUESTIONS = (Question("subject", 2, "Is it a circle?", 0.5), Question("style", 1, "Red?", -2.0))


def says(overall: float | None) -> str:
    return write_thought("It is red, 3.", Answer(SCORES, overall))


def group_of(model: RewardModel, *texts: str) -> Group:
    ids = [tuple(model.processor.tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    logprobs = tuple(torch.zeros(len(one) + 1) for one in ids)
    return Group(tuple(Thought(one, closed=True) for one in ids), texts, logprobs, torch.zeros(len(texts), 1))


@pytest.fixture(scope="module")
def coupled(build) -> RewardModel:
    return build(max_thought_tokens=160, reward_from="expected_score")


@pytest.fixture(scope="module")
def asking(build) -> RewardModel:
    return build(reward_from="checklist", thoughts=False, checklist=QUESTIONS)


def test_the_expected_score_is_the_mean_over_the_digits_of_a_plain_forward(coupled):
    """Two videos with two thoughts each; digits 1 to 5, renormalised, plus the fraction that the thought wrote."""
    prefixes = make_prefixes(coupled, 2)
    groups = [group_of(coupled, says(4.62), says(1.0)), group_of(coupled, says(2.5), says(5.0))]
    videos = coupled.processor.pack(prefixes, [[Thought()]] * 2)
    found = torch.tensor(expected_scores(coupled, videos, groups)).view(2, 2)
    plain, tokenizer = stock(coupled), coupled.processor.tokenizer
    digits = [tokenizer.encode(digit, add_special_tokens=False)[0] for digit in "12345"]
    for prefix, group, row in zip(prefixes, groups, found, strict=True):
        for text, thought, expected in zip(group.texts, group.thoughts, row, strict=True):
            before = text[: locate_overall(text)]
            place = len(tokenizer.encode(before, add_special_tokens=False))
            assert tokenizer.decode(thought.token_ids[:place]) == before
            with torch.no_grad():
                logits = plain_sequence(plain, prefix, thought)[1][len(prefix.input_ids) - 1 + place]
            chances = logits[digits].softmax(-1)
            mean = sum(chance * level for chance, level in zip(chances, range(1, 6), strict=True))
            assert_close(expected, mean + float(text[len(before) :].partition("}")[0]) % 1, atol=1e-4, rtol=0)
    assert len(set(found.flatten().tolist())) == 4


def test_the_expected_score_of_hand_made_logits(coupled, monkeypatch):
    """p(4) = 3/4 and p(3) = 1/4 of the digits, though "9" is likelier than both: 3.75 + 0.62 = 4.37."""
    ids = coupled.processor.tokenizer.convert_tokens_to_ids(["3", "4", "9"])
    logits = torch.full((1, 320), -100.0)
    logits[0, ids] = torch.tensor([0.25, 0.75, 50.0]).log()
    asked = []
    monkeypatch.setattr(coupled, "next_logits", lambda hidden: (asked.append(len(hidden)), logits)[1])
    videos = coupled.processor.pack(make_prefixes(coupled, 1), [[Thought()]])
    (score,) = expected_scores(coupled, videos, [group_of(coupled, says(4.62))])
    assert score == pytest.approx(4.37, abs=1e-5)
    assert asked == [1], "one row of logits for a thought"


@pytest.mark.parametrize("source", ["overall_score", "expected_score"])
def test_a_thought_without_a_legal_score_has_none_and_says_why(coupled, source):
    texts = (says(3.5), says(None), "<think>cut", says(3.5).replace("3.5", "9"))
    videos = coupled.processor.pack(make_prefixes(coupled, 1), [[Thought()]])
    (readout,) = read_rewards(coupled, videos, [group_of(coupled, *texts)], source)
    assert readout.rewards[:, 0].isnan().tolist() == [False, True, True, True]
    assert readout.errors[0] is None
    for error, reason in zip(readout.errors[1:], ("no overall_score", "closed <answer>", "got 9"), strict=True):
        assert reason in error
    assert_close(readout.mean(), readout.rewards[0])


def test_the_overall_score_is_what_the_thought_says(coupled):
    videos = coupled.processor.pack(make_prefixes(coupled, 1), [[Thought()]])
    (readout,) = read_rewards(coupled, videos, [group_of(coupled, says(3.5), says(1.25))], "overall_score")
    assert readout.rewards.tolist() == [[3.5], [1.25]]


def test_the_digit_is_that_of_the_last_answer(coupled):
    text = says(2.5) + says(4.5)
    assert text[locate_overall(text) :] == "4.5}</answer>"


def test_answers_are_those_of_a_plain_forward_and_do_not_see_each_other(asking):
    prefixes = make_prefixes(asking, 3)
    videos = asking.processor.pack(prefixes, [[Thought()]] * 3)
    found, plain = read_answers(asking, videos), stock(asking)
    assert found.shape == (3, 2)
    for prefix, row in zip(prefixes, found, strict=True):
        for question, answer in zip(QUESTIONS, row, strict=True):
            asked = tokenise_question(question, asking.processor.tokenizer)
            with torch.no_grad():
                logits = plain_sequence(plain, prefix, Thought(asked.token_ids))[1]
            yes, no = logits[len(prefix.input_ids) + len(asked.token_ids) - 1, [asked.yes, asked.no]]
            assert_close(answer, torch.sigmoid(yes - no), atol=1e-4, rtol=0)
    rewards = [readout.rewards.item() for readout in read_rewards(asking, videos, [None] * 3)]
    assert rewards == pytest.approx((0.5 * found[:, 0] - 2 * found[:, 1]).tolist(), abs=1e-5)


def test_weights_that_were_never_fitted_give_no_reward(build, clips, tmp_path):
    unfitted = tuple(replace(question, weight=None) for question in QUESTIONS)
    build(reward_from="checklist", thoughts=False, checklist=unfitted).save_pretrained(str(tmp_path / "export"))
    (score,) = Scorer(str(tmp_path / "export"), device="cpu").score(clips[:1], ["a bar"])
    assert math.isnan(score.reward)
    assert "are not fitted" in score.error


def test_a_checklist_travels_with_the_export(asking, clips, tmp_path):
    asking.save_pretrained(str(tmp_path / "export"))
    scorer = Scorer(str(tmp_path / "export"), device="cpu")
    assert scorer.model.settings.checklist == QUESTIONS
    (score,) = scorer.score(clips[:1], ["a bar"])
    prefix = asking.processor.prefix("a bar", asking.processor.read(clips[0]))
    answers = read_answers(asking, asking.processor.pack([prefix], [[Thought()]]))
    assert score.reward == pytest.approx((0.5 * answers[0, 0] - 2 * answers[0, 1]).item(), abs=1e-5)
    assert (score.thought, score.error, scorer.thoughts) == ("", None, False)


def test_a_scorer_counts_the_thoughts_that_have_a_score(coupled, clips, tmp_path, monkeypatch):
    coupled.save_pretrained(str(tmp_path / "export"))
    scorer = Scorer(str(tmp_path / "export"), device="cpu", reward_from="overall_score")
    said = iter([(says(3.0), "nothing", says(4.0)), ("nothing", "", says(None))])
    monkeypatch.setattr(scoring, "think", lambda *_, **__: [group_of(scorer.model, *next(said))])
    (mean,) = scorer.score(clips[:1], ["a bar"], num_thoughts=3)
    assert (mean.reward, mean.error) == (3.5, None)
    assert mean.reward_std == pytest.approx(math.sqrt(0.5))
    assert [math.isnan(each.reward) for each in mean.each] == [False, True, False]
    assert "closed <answer>" in mean.each[1].error
    (none,) = scorer.score(clips[:1], ["a bar"], num_thoughts=3)
    assert math.isnan(none.reward)
    assert none.reward_std is None
    assert none.error.startswith("none of 3 thoughts has a reward; the first one: the thought has no valid answer")


def test_any_model_that_thinks_can_be_read_by_what_it_says_and_no_other_way(qwen3, coupled, asking):
    assert choose_source(qwen3.settings, None, thoughts=True) == "head"
    assert choose_source(qwen3.settings, "overall_score", thoughts=True) == "overall_score"
    assert choose_source(coupled.settings, None, thoughts=True) == "expected_score"
    for model, source, thoughts, reason in (
        (coupled, None, False, "let the model think"),
        (coupled, "head", True, "trained to give 'expected_score'; it has no 'head'"),
        (qwen3, "checklist", True, "it has no 'checklist'"),
        (asking, "overall_score", False, "let the model think"),
    ):
        with pytest.raises(ReadoutError, match=reason):
            choose_source(model.settings, source, thoughts=thoughts)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"reward_from": "checklist"}, "requires questions"),
        ({"reward_from": "overall_score", "thoughts": False}, "set thoughts to true"),
        ({"reward_from": "overall_score", "reward_names": ("a", "b")}, "gives one reward"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(qwen3, settings, reason):
    with pytest.raises(ValueError, match=reason):
        replace(qwen3.settings, **settings)


def test_a_model_that_was_trained_without_thoughts_never_thinks(build, clips, tmp_path):
    model = build(thoughts=False)
    model.save_pretrained(str(tmp_path / "export"))
    scorer = Scorer(str(tmp_path / "export"), device="cpu")
    (score,) = scorer.score(clips[:1], ["a bar"])
    prefix = model.processor.prefix("a bar", model.processor.read(clips[0]))
    assert score.reward == pytest.approx(model(model.processor.pack([prefix], [[Thought()]])).rewards.item(), abs=1e-5)
    assert score.thought == ""
