"""The pairwise baselines: what they train on, their gradients, and what validation reads."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from descore.inputs.choice import TokenisedChoice
from descore.losses.pair_losses import mean_over_usable
from descore.model.reward_model import RewardModel
from descore.modules.choice import ChoiceModule
from descore.modules.options import Optimization
from descore.objectives.choice import choice_loss
from descore.pairwise.comparison import Order, compare_orders
from descore.pairwise.reading import read_choices
from descore.types import Group, Pair, Side, Thought
from tests.conftest import Build
from tests.helpers.training import attach, read_by_name

TEMPLATE = "pair_rendered"
NAN = math.nan


def pair(name: str, preference: float) -> Pair:
    return Pair(name, "a circle", Side(f"{name}-a"), Side(f"{name}-bb"), (preference,))


PAIRS = [pair("p0", 1.0), pair("p1", -1.0), pair("p2", 0.0), pair("p3", NAN)]


def module_of(build: Build, *, thoughts: bool = False) -> tuple[ChoiceModule, dict[str, float]]:
    module = ChoiceModule(template=TEMPLATE, thoughts=thoughts, optimization=Optimization({"language": 1e-3}))
    model: RewardModel = build(template=module._build.args[0].template, reward_from="choice", thoughts=thoughts)
    return module, attach(module, model)


@pytest.mark.parametrize(
    ("preference", "expected"),
    [
        ([1.0], -(math.log(0.6) + math.log(0.2)) / 2),  # A: first with A first, second with B first
        ([-1.0], -(math.log(0.1) + math.log(0.5)) / 2),
        ([0.0], -(math.log(0.3) + math.log(0.3)) / 2),
        ([NAN], 0.0),
    ],
)
def test_the_loss_by_hand(preference, expected):
    """With A first the outcomes have .6 .3 .1, with B first .5 .3 .2."""
    logprobs = torch.tensor([0.6, 0.3, 0.1, 0.5, 0.3, 0.2]).log()
    places = [TokenisedChoice(((1,), (2,), (3,)))] * 2
    assert float(choice_loss(logprobs, places, torch.tensor(preference))) == pytest.approx(expected)


def test_a_model_without_ties_learns_from_decided_pairs_alone():
    """Two pairs, the second a tie: the loss is that of the first, over two prompts and not four."""
    logprobs = torch.tensor([0.8, 0.2, 0.5, 0.5, 0.4, 0.6, 0.5, 0.5]).log()
    found = choice_loss(logprobs, [TokenisedChoice(((1,), (2,)))] * 4, torch.tensor([1.0, 0.0]))
    assert float(found) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


def test_every_pair_is_read_in_both_orders(build):
    module, _ = module_of(build)
    batch = module.collator(training=True, read=read_by_name)(0, PAIRS)
    assert len(batch.branches.layout.prefix_lengths) == 2 * len(PAIRS)
    grids = batch.branches.grids.view(2, len(PAIRS), 2, 3)
    assert torch.equal(grids[0], grids[1].flip(1)), "the second half shows B first"
    assert {len(row) for row in batch.thoughts} == {3}, "a branch for each outcome"


def test_the_loss_is_that_of_what_is_read_and_a_step_makes_it_smaller(build):
    module, _ = module_of(build)
    batch = module.collator(training=True, read=read_by_name)(0, PAIRS)
    with torch.no_grad():
        read = torch.stack([one.mean() for one in read_choices(module.model, batch.branches, [("",)] * 8)])
    labels = [(0, 0), (4, 2), (1, 2), (5, 0), (2, 1), (6, 1)]
    expected = -sum(math.log(read[place, outcome]) for place, outcome in labels) / 6
    loss = module.training_step(batch, 0)
    assert float(loss) == pytest.approx(expected, abs=1e-4)
    loss.backward()
    trained = [one for one in module.model.parameters() if one.grad is not None and one.grad.abs().sum() > 0]
    norm = torch.nn.utils.get_total_norm([one.grad for one in trained])
    assert norm > 0
    with torch.no_grad():
        for one in trained:
            one -= 1e-3 / norm * one.grad
    assert module.training_step(batch, 0) < loss


def test_validation_reads_both_orders_and_counts_what_changes(build):
    module, _ = module_of(build)
    batch = module.collator(training=False, read=read_by_name)(0, PAIRS)
    with torch.no_grad():
        given = module.given_reader()(module.model, batch)
        read = [one.mean() for one in read_choices(module.model, batch.branches, [("",)] * 8)]
    found = [
        compare_orders(Order(*a.tolist()), Order(*b.flip(0).tolist())) for a, b in zip(read[:4], read[4:], strict=True)
    ]
    rewards = given.rewards["no_thought"]
    assert rewards.shape == (2, 4, 1)
    margins = (rewards[0] - rewards[1])[:, 0].tolist()
    assert margins == pytest.approx([one.margin for one in found], abs=1e-5)
    assert given.values["verdict_accuracy"].tolist() == [
        float(one.verdict == label) for one, label in zip(found, ("A", "B", "tie"), strict=False)
    ]
    assert given.values["verdict_changes"].tolist() == [float(one.verdict_changes) for one in found]
    swapped = [Pair(one.id, one.prompt, one.b, one.a, (-one.preference[0],)) for one in PAIRS]
    other = module.collator(training=False, read=read_by_name)(0, swapped)
    with torch.no_grad():
        again = module.given_reader()(module.model, other).rewards["no_thought"]
    assert torch.allclose(again, rewards.flip(0), atol=1e-5), "swapped videos swap the verdict"


def test_no_usable_label_has_no_loss():
    logprobs = torch.tensor([0.5, 0.5] * 2).log().requires_grad_()
    loss = choice_loss(logprobs, [TokenisedChoice(((1,), (2,)))] * 2, torch.tensor([0.0]), mean_over_usable)
    loss.backward()
    assert float(loss) == 0
    assert not logprobs.grad.any()


def test_every_token_of_the_thoughts_is_learnt_and_an_order_without_one_is_left_out(build):
    """The loss is the mean over the tokens, ends of turn included, of three thoughts, each read by itself."""
    module, logged = module_of(build, thoughts=True)
    texts = [("The circle is red.", "<think>"), ("", "The circle"), ("", "")]
    thought = [replace(one, thoughts=both) for one, both in zip(PAIRS, texts, strict=False)]
    batch = module.collator(training=True, read=read_by_name)(0, thought)
    processor, logprobs = module.model.processor, []
    for one in thought:
        a, b = read_by_name(one.a.video), read_by_name(one.b.video)
        for text, videos in zip(one.thoughts, ((a, b), (b, a)), strict=True):
            if text:
                alone = processor.pack([processor.prefix(one.prompt, *videos)], [[processor.thought(text)]])
                with torch.no_grad():
                    logprobs.append(module.model(alone, with_logprobs=True).logprobs)
    loss = module.training_step(batch, 0)
    assert len(logprobs) == 3
    assert float(loss) == pytest.approx(-float(torch.cat(logprobs).mean()), abs=1e-4)
    assert logged["train/loss"] == float(loss)
    loss.backward()
    assert torch.nn.utils.get_total_norm([one.grad for one in module.model.parameters() if one.grad is not None]) > 0


def test_thoughts_are_asked_for_before_the_first_step(build):
    module, _ = module_of(build, thoughts=True)
    module._trainer.datamodule = SimpleNamespace(train_pairs=PAIRS)
    with pytest.raises(ValueError, match=r"none of 4 training pairs has a thought .*thought_a_first.*descore reject"):
        module.on_fit_start()
    module._trainer.datamodule.train_pairs = [*PAIRS, replace(PAIRS[0], thoughts=("", "so"))]
    module.on_fit_start()
    with pytest.raises(ValueError, match="own_thought_pairs is 0"):
        ChoiceModule(template=TEMPLATE, thoughts=True, own_thought_pairs=0)


def test_verdicts_of_own_thoughts_are_those_that_count(build):
    """Both orders call A better, which is the label of the first pair; the second has no verdict with B first."""
    module, _ = module_of(build, thoughts=True)
    module.model.processor.settings = replace(module.model.settings, reward_from="said_choice")
    says = ["<answer>Video 1 is better", "<answer>Video 2 is better", "<answer>Video 2 is better", "nothing"]
    groups = [Group((Thought((7,)),), (text,), (), torch.zeros(1, 1)) for text in says]
    batch = module.collator(training=False, read=read_by_name)(0, PAIRS[:2])
    reader = module.given_reader()
    assert reader(module.model, batch).values == {}, "what is read without a thought is not what users get"
    found = reader.own(module.model, batch, groups)
    assert found.rewards["own_thought"][:, 0, 0].tolist() == pytest.approx([6.9078, -6.9078], abs=1e-3)
    assert found.rewards["own_thought"][:, 1].isnan().all()
    assert found.values["verdict_accuracy"].tolist() == [1.0, 0.0]
    assert found.values["verdict_changes"].tolist() == [0.0]
