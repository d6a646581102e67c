"""The checklist baseline: what is asked in training, how the weights are fitted, and that a checkpoint keeps them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from descore.inputs.checklist import Question
from descore.modules import checklist
from descore.modules.checklist import ChecklistModule
from descore.modules.options import Optimization
from descore.modules.readings import ChecklistReader
from descore.types import DIMENSIONS, Pair, Side
from tests.helpers.training import TEMPLATE, attach, read_by_name

QUESTIONS = (Question("style", 1, "Does the style fit?"), Question("subject", 2, "Is the subject right?"))
FIT = dict.fromkeys(DIMENSIONS, 2)
PAIR = Pair("p0", "a circle", Side("a", scores=FIT), Side("b", scores=FIT | {"style": 0, "subject": None}), (1.0,))


def module_of(build, **trainer) -> ChecklistModule:
    module = ChecklistModule(template=TEMPLATE, optimization=Optimization({"language": 1e-3}))
    attach(module, build(reward_from="checklist", thoughts=False, checklist=QUESTIONS), **trainer)
    return module


def test_a_video_is_asked_what_its_prompt_asks_for_and_told_the_right_answer(build):
    """A: yes and yes. B: no to the first, and the second is not asked."""
    module = module_of(build)
    batch = module.collator(training=True, read=read_by_name)(0, [PAIR])
    tokenizer = module.model.processor.tokenizer
    words = [[tokenizer.decode(branch.token_ids) for branch in video] for video in batch.thoughts]
    first, second = (question.text for question in QUESTIONS)
    # The answer is its first token that differs from that of the other one.
    assert [[text[: len(first) + 2] for text in video[:1]] for video in words] == [[f"{first} y"], [f"{first} n"]]
    assert [len(video) for video in words] == [2, 1]
    assert words[0][1].startswith(f"{second} y")


def test_weights_are_fitted_to_the_preferences_once_a_step(build, monkeypatch):
    """The first answer says what people prefer, the second the opposite."""
    answers = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])  # A, A, B, B
    calls = []
    monkeypatch.setattr(checklist, "read_answers", lambda model, branches: calls.append(model.training) or answers)
    batch = SimpleNamespace(branches=torch.zeros(1), preference=torch.tensor([[1.0], [-1.0]]))
    module = module_of(build, datamodule=SimpleNamespace(fitting_dataloader=lambda num_pairs: [batch]))
    for _ in range(2):
        module.fit_checklist()
    assert calls == [False], "in eval mode, and not twice at a step"
    assert module.model.training
    weights = [question.weight for question in module.model.settings.checklist]
    assert weights[0] > 0.1
    assert weights[0] == pytest.approx(-weights[1])
    module._trainer.global_step = 1
    module.fit_checklist()
    assert len(calls) == 2


def test_a_checkpoint_keeps_the_weights(build):
    first, second = module_of(build), module_of(build)
    first._set_weights([0.5, float("nan")])
    checkpoint = {"state_dict": first.state_dict()}
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    assert [question.weight for question in second.model.settings.checklist] == [0.5, None]


def test_an_answer_counts_where_the_scores_tell_the_right_one(build, monkeypatch):
    """A: yes and yes of two; B: no where no is right, and nothing to the other."""
    module = module_of(build)
    module._set_weights([2.0, 1.0])
    answers = torch.tensor([[0.9, 0.6], [0.2, 0.7]])
    monkeypatch.setattr("descore.modules.readings.read_answers", lambda model, branches: answers)
    batch = module.collator(training=False, read=read_by_name)(0, [PAIR])
    given = ChecklistReader()(module.model, batch)
    assert given.values["answer_accuracy"].tolist() == [1, 1, 1]
    torch.testing.assert_close(given.rewards["no_thought"], torch.tensor([[[2.4]], [[1.1]]]))
    answers[0, 1] = 0.4
    assert ChecklistReader()(module.model, batch).values["answer_accuracy"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("num_ungraded", [0, 2])
def test_pairs_without_scores_are_refused_before_the_first_step(build, num_ungraded):
    data = SimpleNamespace(ungraded=lambda: (num_ungraded, ["p0", "p7"][:num_ungraded]), train_pairs=[PAIR] * 9)
    module = module_of(build, datamodule=data)
    if num_ungraded:
        with pytest.raises(ValueError, match="2 of 9 training pairs lack them, such as p0, p7"):
            module.on_fit_start()
    else:
        module.on_fit_start()
