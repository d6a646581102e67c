"""A training step of stage 1: what its options reach, what it logs, and how its gradients are clipped or dropped."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from descore.frame_tool.calls import write_call
from descore.frame_tool.settings import FrameTool
from descore.model.reward_model import Forward
from descore.modules.cold_start import ColdStartModule
from descore.modules.options import Optimization
from descore.modules.readings import HeadReader, NoReader
from descore.modules.validation import Validation
from descore.objectives.preference import PreferenceObjective
from descore.thinking.conversation import begin, converse
from descore.thinking.looking import look_and_think
from descore.types import Frames, Pair, Side
from tests.helpers.examples import make_frames
from tests.helpers.training import TEMPLATE, attach, read_by_name

HEAD_ONLY = {"learning_rates": {"head": 1e-3}}
PAIRS = [
    Pair("p0", "a circle", Side("a", "<think>a red circle"), Side("b", "<think>a blue one"), (1.0,)),
    Pair("p1", "a square", Side("c", "<think>a square moves"), Side("d", "<think>it rests"), (-1.0,)),
]


def module_of(objective: PreferenceObjective = PreferenceObjective(), seed: int = 0, **optimization) -> ColdStartModule:
    options = Optimization(**HEAD_ONLY | optimization)
    return ColdStartModule(template=TEMPLATE, objective=objective, optimization=options, seed=seed)


def step(module: ColdStartModule) -> torch.Tensor:
    return module.training_step(module.collator(training=True, read=read_by_name)(0, PAIRS), 0)


def test_masks_are_drawn_by_the_probability_and_the_seed_of_the_module(build):
    model = build()

    def masked(seed: int, probability: float) -> list[bool]:
        module = module_of(PreferenceObjective(cot_mask_prob=probability), seed)
        attach(module, model)
        collate = module.collator(training=True, read=read_by_name)
        return [bool(collate(epoch, PAIRS[:1]).masked) for epoch in range(12)]

    assert masked(1, 0.5) == masked(1, 0.5)
    assert masked(1, 0.5) != masked(2, 0.5)
    assert (sum(masked(1, 0.0)), sum(masked(1, 1.0))) == (0, 12)


def test_validation_scores_with_and_without_a_thought_whatever_training_does(build):
    module = module_of(PreferenceObjective(cot_mask_prob=1.0))
    attach(module, build())
    batch = module.collator(training=False, read=read_by_name)(0, PAIRS)
    assert [len(lengths) for lengths in batch.branches.layout.branch_lengths] == [2] * 4
    assert len(batch.frames) == 4
    training = module.collator(training=True, read=read_by_name)(0, PAIRS)
    assert [len(lengths) for lengths in training.branches.layout.branch_lengths] == [1] * 4
    assert not training.frames


def test_the_loss_is_that_of_the_objective_on_the_rewards_of_the_batch(build):
    """Twice the loss without a language-model loss, and what its weight adds."""
    model = build()
    found = {}
    for preference, language_model in ((1.0, 0.0), (2.0, 0.0), (2.0, 0.5)):
        weights = {"preference_weight": preference, "language_model_weight": language_model}
        module = module_of(PreferenceObjective(cot_mask_prob=0.0, **weights))
        logged = attach(module, model)
        found[preference, language_model] = step(module).item()
        assert logged["train/loss"] == pytest.approx(found[preference, language_model])
        assert logged["train/preference_loss"] == pytest.approx(found[1.0, 0.0])
    assert found[2.0, 0.0] == pytest.approx(2 * found[1.0, 0.0])
    assert logged["train/language_model_loss"] > 1
    added = 0.5 * logged["train/language_model_loss"]
    assert found[2.0, 0.5] == pytest.approx(found[2.0, 0.0] + added, rel=1e-5)


def test_what_is_logged_of_the_rewards_by_hand(build):
    """Rewards of A: 3 and 0, of B: 1 and 2; A and B are preferred. Margins 2 and 2; mean 6 / 4, squares 14 / 4."""
    module = module_of()
    logged = attach(module, build())
    rewards = torch.tensor([3.0, 0.0, 1.0, 2.0])[:, None]
    module.model.forward = lambda branches, with_logprobs: Forward(rewards, rewards.new_empty(0))
    step(module)
    assert logged["train/preference_accuracy"] == 1
    assert logged["train/reward_margin"] == 2
    assert logged["train/reward_mean"] == 1.5
    assert logged["train/reward_std"] == pytest.approx(math.sqrt(3.5 - 1.5**2))


@pytest.mark.parametrize(("limit", "expected"), [(0.5, 0.5), (0.0, 5.0), (9.0, 5.0)])
def test_gradients_are_clipped_at_the_limit_and_0_switches_it_off(build, limit, expected):
    module = module_of(gradient_clip=limit)
    logged = attach(module, build())
    weight = module.model.head.weight
    weight.grad = torch.zeros_like(weight)
    weight.grad[0, :2] = torch.tensor([3.0, 4.0])
    module.configure_gradient_clipping(torch.optim.SGD([weight], lr=1.0))
    assert weight.grad.norm().item() == pytest.approx(expected, rel=1e-4)
    assert logged["train/skipped_share"] == 0


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted(build, tmp_path):
    module = module_of()
    logged = attach(module, build(), log_dir=str(tmp_path))
    optimizer = torch.optim.SGD([module.model.head.weight], lr=1.0)
    before = module.model.head.weight.detach().clone()
    for number in (1, 2):
        step(module).backward()
        module.model.head.weight.grad[0, 0] = math.nan
        with pytest.warns(UserWarning, match=r"step 0 is skipped.*p0, p1"):
            module.configure_gradient_clipping(optimizer)
        optimizer.step()
        assert torch.equal(module.model.head.weight, before)
        assert (logged["train/skipped_share"], module.skipping.num_in_a_row) == (1, number)
    step(module).backward()
    module.configure_gradient_clipping(optimizer)
    assert (logged["train/skipped_share"], module.skipping.num_in_a_row) == (0, 0)


def test_a_step_knows_the_pairs_and_the_loss_of_all_its_batches(build, monkeypatch):
    """Two batches of one optimizer step; the next step starts from nothing."""
    module = module_of()
    attach(module, build())
    seen = []
    monkeypatch.setattr(module, "skips", lambda loss, norm, describe: seen.append((float(loss), describe())) or False)
    for _ in range(2):
        losses = [step(module) for _ in range(2)]
        sum(losses).backward()
        total = sum(loss.item() for loss in losses)
        module.configure_gradient_clipping(torch.optim.SGD([module.model.head.weight], lr=0.0))
        loss, kept = seen[-1]
        assert loss == pytest.approx(total)
        assert [pair.id for pair in kept.pairs] == ["p0", "p1"] * 2
        assert [len(videos) for videos in kept.videos] == [2] * 4


def test_a_reward_from_thoughts_is_not_read_without_them(build):
    def module(source: str) -> ColdStartModule:
        return ColdStartModule(template=TEMPLATE, reward_from=source, optimization=Optimization(**HEAD_ONLY))

    assert isinstance(module("overall_score").given_reader(), NoReader)
    assert (module("overall_score").headline, module("head").headline) == ("own_thought", "own_thought")
    assert isinstance(module("head").given_reader(), HeadReader)
    with pytest.raises(
        ValueError, match="own_thought_pairs is 0; expected at least 1: with reward_from 'overall_score'"
    ):
        ColdStartModule(template=TEMPLATE, reward_from="overall_score", own_thought_pairs=0)


def test_a_loss_of_opinion_scores_on_pairs_that_have_none_is_refused(build):
    module = module_of(PreferenceObjective("mse"))
    attach(module, build())
    with pytest.raises(ValueError, match=r"mse loss needs opinion scores.* p0, p1"):
        step(module)


@pytest.mark.parametrize(
    ("options", "headline"),
    [
        ({}, "own_thought"),
        ({"own_thought_pairs": 0}, "teacher_thought"),
        ({"thoughts": False}, "no_thought"),
        ({"thoughts": False, "own_thought_pairs": 0}, "no_thought"),
    ],
)
def test_the_headline_is_read_as_users_score(options, headline):
    assert ColdStartModule(template=TEMPLATE, **options).headline == headline


@pytest.mark.parametrize("own_thought_pairs", [0, 1])
def test_a_validation_without_own_thoughts_is_told(own_thought_pairs, qwen3, monkeypatch):
    said = []
    monkeypatch.setattr("descore.modules.system.rank_zero_info", said.append)
    options = Optimization(**HEAD_ONLY)
    attach(ColdStartModule(template=TEMPLATE, own_thought_pairs=own_thought_pairs, optimization=options), qwen3)
    assert said[0].startswith("Training ")
    told = [line for line in said if "no thoughts of the model's own" in line]
    assert [line.endswith("accuracy with the teacher's thoughts") for line in told] == [True] * (own_thought_pairs == 0)


CALLING = [replace(pair, a=replace(pair.a, thought=f"Hm.{write_call([3, 4])}{pair.a.thought}")) for pair in PAIRS]
LOOKING = {"own_thought_pairs": 2, "thoughts": FrameTool(first_frames=2, frames_per_call=2, max_calls=1)}


def look(module: ColdStartModule, build) -> dict[str, float]:
    """Give a module a model with its tool, that reads videos of six frames."""
    logged = attach(module, build(tool=module.settings.tool, max_thought_tokens=200))
    module.settings = module.model.settings
    return logged


def looking_at(path: str) -> Frames:
    return make_frames(6, seed=sum(path.encode()))


def test_a_thought_with_a_call_trains_its_turns_and_the_head_on_the_last(build):
    """Over the thoughts that the teacher wrote: the first videos ask for frames, the second ones do not."""
    objective = PreferenceObjective(cot_mask_prob=0.0, language_model_weight=0.5)
    module = ColdStartModule(template=TEMPLATE, objective=objective, optimization=Optimization(**HEAD_ONLY), **LOOKING)
    logged = look(module, build)
    batch = module.collator(training=True, read=looking_at)(0, CALLING)
    loss = module.training_step(batch, 0)
    rewards, logprobs = [], []
    for side, pair in [(pair.a, pair) for pair in CALLING] + [(pair.b, pair) for pair in CALLING]:
        prefix, last = converse(module.model.processor, pair.prompt, looking_at(side.video), side.thought)
        assert len(prefix.turns) == ("tool_call" in side.thought)
        forward = module.model(module.model.processor.pack([prefix], [[last]]), with_logprobs=True)
        rewards.append(forward.rewards[0, 0])
        logprobs.append(forward.logprobs)
        said = sum(end - start for start, end in prefix.turns)
        assert len(forward.logprobs) == said + len(last.token_ids) + last.closed
    margins = (torch.stack(rewards[:2]) - torch.stack(rewards[2:])) * torch.tensor([1.0, -1.0])
    expected = -torch.nn.functional.logsigmoid(margins).mean() - 0.5 * torch.cat(logprobs).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert logged["train/language_model_loss"] == pytest.approx(-torch.cat(logprobs).mean().item(), abs=1e-5)


def test_a_masked_pair_of_a_model_with_a_tool_is_scored_by_its_first_frames(build):
    module = ColdStartModule(
        template=TEMPLATE,
        objective=PreferenceObjective(cot_mask_prob=1.0),
        optimization=Optimization(**HEAD_ONLY),
        **LOOKING,
    )
    look(module, build)
    batch = module.collator(training=True, read=looking_at)(0, CALLING)
    assert batch.masked.all()
    assert [len(row) for row in batch.thoughts] == [1] * 4
    assert batch.branches.layout.num_grids == (1,) * 4
    assert len(batch.branches.target_ids) == 0


def test_validation_of_a_model_with_a_tool_reads_its_conversations(build):
    """With the teacher's calls, and with the model's own turns; not without a thought, for want of a common prefix."""
    module = ColdStartModule(template=TEMPLATE, optimization=Optimization(**HEAD_ONLY), **LOOKING)
    look(module, build)
    batch = module.collator(training=False, read=looking_at)(0, CALLING)
    assert module.headline == "own_thought"
    validation = Validation(module.model, ["val"], 2, module.headline, module.given_reader())
    found = validation.step(batch, 0)
    assert set(found["rewards"]) == {"teacher_thought", "own_thought"}
    assert (
        found["rewards"]["teacher_thought"].flatten().tolist()
        == module.model(batch.branches).rewards.flatten().tolist()
    )
    begun = [begin(module.model.processor, pair.prompt, looking_at(pair.a.video)) for pair in CALLING]
    own = [group.rewards[0] for group in look_and_think(module.model, begun)]
    assert torch.allclose(found["rewards"]["own_thought"][0], torch.stack(own), atol=1e-5)


def test_both_branches_of_a_prefix_are_refused_with_a_tool():
    with pytest.raises(ValueError, match=r"cot_masking is 'both'.*expected 'sampled'"):
        ColdStartModule(template=TEMPLATE, objective=PreferenceObjective(cot_masking="both"), **LOOKING)
