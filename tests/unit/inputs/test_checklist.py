"""The checklist: its file, its right answers, its tokens, and the fit of its weights."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from descore.inputs.checklist import Question, read_checklist, tokenise_question
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.objectives.checklist import fit_weights
from descore.types import DIMENSIONS

PROMPTS = Path(__file__).parents[3] / "src/descore/prompts"


@pytest.mark.parametrize("name", ["checklist.csv", "checklist_rendered.csv"])
def test_our_checklists_ask_two_things_of_every_dimension(name):
    questions = read_checklist(PROMPTS / name)
    assert [(one.dimension, one.at_least) for one in questions] == [(d, n) for d in DIMENSIONS for n in (2, 1)]
    assert len({one.text for one in questions}) == 10
    assert all(one.weight is None for one in questions)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dimension,question\nstyle,Fine?\n", "at_least missing"),
        ("dimension,at_least,question\nstyle,1,Fine?\nlook,1,Fine?\n", r"line 3: .*got 'look'"),
        ("dimension,at_least,question\nstyle,3,Fine?\n", "line 2: .*got 'style', 3"),
        ("dimension,at_least,question\nstyle,1,\n", "line 2"),
        ("dimension,at_least,question\n", "at least one question"),
    ],
)
def test_a_checklist_that_is_not_legal_is_refused_by_file_and_line(tmp_path, text, reason):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"list\.csv.*{reason}"):
        read_checklist(path)


@pytest.mark.parametrize(
    ("words", "asked_text", "answers"),
    [({}, "Compare: style ", ("y", "n")), ({"yes": "fits", "no": "wrong"}, "Compare: style", (" fits", " wrong"))],
)
def test_the_answer_is_the_first_token_in_which_yes_and_no_differ(words, asked_text, answers):
    tokenizer = Processor(ModelSettings("tiny", "{prompt}")).tokenizer
    asked = tokenise_question(Question("style", 2, "Compare: style", **words), tokenizer)
    assert tokenizer.decode(asked.token_ids) == asked_text
    assert (tokenizer.decode([asked.yes]), tokenizer.decode([asked.no])) == answers


def test_answers_that_do_not_part_are_refused():
    tokenizer = Processor(ModelSettings("tiny", "{prompt}")).tokenizer
    with pytest.raises(ValueError, match="tokens differ"):
        tokenise_question(Question("style", 2, "Style:", yes="fits", no="fits."), tokenizer)
    with pytest.raises(ValueError, match="two different words"):
        Question("style", 2, "Style:", yes="fits", no="fits")


def test_the_fit_recovers_the_weights_that_made_the_preferences():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([2.0, -1.0, 0.0])
    differences = torch.rand(20_000, 3, generator=generator) * 2 - 1
    chances = torch.sigmoid(differences @ truth)
    preference = (torch.rand(20_000, generator=generator) < chances).float() * 2 - 1
    assert_close(fit_weights(differences, preference), truth.double(), atol=0.06, rtol=0)


def test_the_fit_of_one_question_by_hand():
    """Three of four pairs agree with a difference of 1: 4 sigmoid(w) + w = 3 at the minimum, whichever side is A."""
    weight = fit_weights(torch.tensor([[1.0], [1.0], [-1.0], [1.0]]), torch.tensor([1.0, 1.0, -1.0, -1.0])).item()
    assert 4 / (1 + math.exp(-weight)) + weight == pytest.approx(3, abs=1e-6)


def test_ties_and_failures_are_left_out_and_separable_pairs_stay_finite():
    differences = torch.tensor([[1.0, 0.0], [0.5, 0.5], [-1.0, 0.0], [9.0, 9.0], [math.nan, 1.0], [9.0, -9.0]])
    preference = torch.tensor([1.0, 1.0, -1.0, 0.0, 1.0, math.nan])
    weights = fit_weights(differences, preference)
    assert weights.isfinite().all()
    assert_close(weights, fit_weights(differences[:3], preference[:3]))
    with pytest.raises(ValueError, match="got 2 without one"):
        fit_weights(differences[:2], torch.zeros(2))


def test_what_is_not_asked_has_no_answer():
    question = Question("camera", 1, "Camera?")
    answers = [question.right_answer(dict.fromkeys(DIMENSIONS, score)) for score in (2, 1, 0, None)]
    assert answers == [True, True, False, None]


def test_a_fit_without_negative_weights_leaves_questions_out_and_fits_the_others_again():
    """The second question speaks against the preference: without it, the first one is fitted as if it were alone."""
    differences = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    preference = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert fit_weights(differences, preference)[1] < 0
    weights = fit_weights(differences, preference, nonnegative=True)
    assert_close(weights, torch.stack([fit_weights(differences[:, :1], preference)[0], torch.tensor(0.0).double()]))
    assert weights[0] > 0
    assert fit_weights(differences[:, 1:], preference, nonnegative=True).tolist() == [0.0]


def test_questions_of_any_file_are_read(tmp_path):
    (tmp_path / "list.csv").write_text("question,weight,yes\nIs it sharp?,0.5,Yes\nIs it steady?,,\n")
    (tmp_path / "list.txt").write_text("Is it sharp?\n\nIs it steady?\n")
    sharp, steady = Question(text="Is it sharp?", weight=0.5, yes="Yes"), Question(text="Is it steady?")
    assert read_checklist(tmp_path / "list.csv") == (sharp, steady)
    assert read_checklist(tmp_path / "list.txt") == (Question(text="Is it sharp?"), steady)
    assert steady.right_answer(dict.fromkeys(DIMENSIONS, 2)) is None
    for text, reason in (("question,weight\nFine?,nan\n", "line 2: .*finite"), ("weight\n1\n", "question missing")):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(ValueError, match=rf"list\.csv.*{reason}"):
            read_checklist(tmp_path / "list.csv")
    with pytest.raises(ValueError, match="neither"):
        Question("style", 0, "Fine?")
