"""What a reward is read from, against one full forward per thought or question, and what happens without one."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from descore.answer import Answer, locate_overall, write_thought
from descore.inputs.answers import AnswerSettings
from descore.inputs.checklist import ProbeSettings, Question, tokenise_question
from descore.model.reward_model import RewardModel
from descore.scoring import together as scoring
from descore.scoring.scorer import Scorer
from descore.thinking.readout import ReadoutError, choose_source, digit_scores, read_answers, read_rewards, weigh
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
    found = torch.tensor(digit_scores(coupled, videos, groups, "expected_score")).view(2, 2)
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
    ((score,),) = digit_scores(coupled, videos, [group_of(coupled, says(4.62))], "expected_score")
    assert score == pytest.approx(4.37, abs=1e-5)
    assert asked == [1], "one row of logits for a thought"


FIELDS = {"visual": r"visual: (\S+)", "motion": r"motion: (\S+)"}
LINES = "<think>visual: 1</think>visual: 4\nmotion: 2"


@pytest.fixture(scope="module")
def lines(build) -> RewardModel:
    answer = AnswerSettings(FIELDS, temperature=0.5)
    names = ("visual", "motion")
    return build(max_thought_tokens=160, reward_from="top_share", answer=answer, reward_names=names)


def test_the_top_share_of_hand_made_logits(lines, monkeypatch):
    """p(4) = 0.6 and p(5) = 0.4 at temperature 1 are 9/13 and 4/13 at 0.5: 4 * 9/13. A sure 3 gives 3."""
    logits = torch.full((2, 320), -100.0)
    logits[0, lines.processor.tokenizer.convert_tokens_to_ids(["4", "5"])] = torch.tensor([0.6, 0.4]).log()
    logits[1, lines.processor.tokenizer.convert_tokens_to_ids("3")] = 0.0
    asked = []
    monkeypatch.setattr(lines, "next_logits", lambda hidden: (asked.append(len(hidden)), logits)[1])
    videos = lines.processor.pack(make_prefixes(lines, 1), [[Thought()]])
    (readout,) = read_rewards(lines, videos, [group_of(lines, LINES)])
    assert_close(readout.rewards, torch.tensor([[36 / 13, 3.0]]))
    assert asked == [2], "one row of logits for each field"


@pytest.mark.parametrize("source", ["top_share", "expected_score"])
def test_digits_of_several_fields_are_those_of_a_plain_forward(lines, source):
    """Two thoughts about one video, two fields each; the digit that is read is the last one, after the thought."""
    prefix, texts = make_prefixes(lines, 1)[0], (LINES, LINES.replace("4\nmotion: 2", "5\nmotion: 1.5"))
    group = group_of(lines, *texts)
    videos = lines.processor.pack([prefix], [[Thought()]])
    (readout,) = read_rewards(lines, videos, [group], source)
    plain, tokenizer = stock(lines), lines.processor.tokenizer
    digits = tokenizer.convert_tokens_to_ids(list("12345"))
    for text, thought, row in zip(texts, group.thoughts, readout.rewards, strict=True):
        for name, found in zip(("visual", "motion"), row, strict=True):
            before = text[: text.rindex(f"{name}: ") + len(f"{name}: ")]
            place = len(tokenizer.encode(before, add_special_tokens=False))
            with torch.no_grad():
                logits = plain_sequence(plain, prefix, thought)[1][len(prefix.input_ids) - 1 + place]
            chances = (logits[digits] / 0.5).softmax(-1)
            written = float(text[len(before) :].split()[0])
            expected = (chances @ torch.arange(1.0, 6.0)) + written % 1
            top = (chances.argmax() + 1) * chances.max()
            assert_close(found, top if source == "top_share" else expected, atol=1e-4, rtol=0)


def test_several_fields_are_several_rewards_or_one(lines, build):
    said = read_rewards(lines, None, [group_of(lines, LINES, "visual: 4")], "overall_score")[0]
    assert_close(said.rewards, torch.tensor([[4.0, 2.0], [math.nan, math.nan]]), equal_nan=True)
    assert said.errors[0] is None
    assert "no motion" in said.errors[1]
    for combine, expected in (("mean", 3.0), ("sum", 6.0)):
        one = build(max_thought_tokens=160, reward_from="overall_score", answer=AnswerSettings(FIELDS, combine=combine))
        assert read_rewards(one, None, [group_of(one, LINES)])[0].rewards.tolist() == [[expected]]


def test_words_have_the_values_of_the_published_map(build):
    """LiFT: (Good .9 + Normal .2 + Bad .05) / 3 = 0.3833; a word that is not in the map is no Good, and no 0."""
    fields = {name: rf"{name}: (\w+)" for name in ("semantics", "fidelity", "motion")}
    answer = AnswerSettings(fields, {"Good": 0.9, "Normal": 0.2, "Bad": 0.05})
    model = build(max_thought_tokens=160, reward_from="overall_score", answer=answer)
    text = "semantics: Good. It is there. fidelity: normal. motion: Bad."
    (readout,) = read_rewards(model, None, [group_of(model, text, text.replace("Bad", "Fine"))])
    assert readout.rewards[0].item() == pytest.approx(1.15 / 3)
    assert readout.rewards[1].isnan().all()
    assert "'Fine'; expected Good, Normal, Bad" in readout.errors[1]


def test_a_thought_that_was_cut_off_in_a_value_has_none(build):
    model = build(max_thought_tokens=160, reward_from="overall_score", answer=AnswerSettings({"s": r"s: (\S+)"}))
    whole = group_of(model, "s: 3")
    cut = replace(whole, thoughts=(replace(whole.thoughts[0], closed=False),))
    assert read_rewards(model, None, [whole])[0].rewards.tolist() == [[3.0]]
    assert "cut off at the s of its answer" in read_rewards(model, None, [cut])[0].errors[0]


def test_hard_answers_count_plus_and_minus_one(build):
    """0.5 * 1 + 2 * -1 = -1.5, or half of it as a mean; soft, 0.5 * 0.9 + 2 * 0.5 = 1.45."""
    questions = (replace(QUESTIONS[0], weight=0.5), replace(QUESTIONS[1], weight=2.0))
    answers = torch.tensor([[0.9, 0.5]])
    for probes, expected in (
        (ProbeSettings("hard"), -1.5),
        (ProbeSettings("hard", "mean"), -0.75),
        (ProbeSettings(), 1.45),
        (ProbeSettings(combine="mean"), 0.725),
    ):
        model = build(reward_from="checklist", thoughts=False, checklist=questions, probes=probes)
        assert weigh(model, answers).item() == pytest.approx(expected)


@pytest.mark.parametrize("source", ["overall_score", "expected_score", "top_share"])
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
        ({"reward_from": "top_share", "answer": AnswerSettings({"a": "a: (.)"}, {"Good": 1.0})}, "says words"),
        ({"reward_from": "top_share", "answer": AnswerSettings(lowest=10, highest=20)}, "numbers from 10 to 20"),
        (
            {
                "reward_from": "checklist",
                "checklist": (Question("style", 1, "Red?", -2.0),),
                "probes": ProbeSettings(nonnegative=True),
            },
            "'Red\\?' has the weight -2",
        ),
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
