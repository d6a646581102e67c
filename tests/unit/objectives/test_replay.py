"""A kept step that is replayed gives the loss that training had, for every option of both stages.

Training takes the step through the module, as Lightning calls it; what it would keep goes to a file, and comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from descore.frame_tool.calls import write_call
from descore.frame_tool.settings import FrameTool
from descore.inputs.checklist import Question
from descore.inputs.collate import Read
from descore.losses.pair_losses import PairLossName
from descore.losses.policy import KLEstimator
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.modules.checklist import ChecklistModule
from descore.modules.choice import ChoiceModule
from descore.modules.cold_start import ColdStartModule
from descore.modules.options import Batching, Optimization
from descore.modules.rl import RLModule
from descore.modules.supervised import SupervisedSystem
from descore.objectives.algorithms import AlgorithmName, AlgorithmOptions
from descore.objectives.dual import LossWeights
from descore.objectives.kept_step import KeptStep
from descore.objectives.preference import PreferenceObjective
from descore.objectives.replay import Replayed, replay
from descore.rewards import Rubric
from descore.types import DIMENSIONS, Pair, Side
from tests.helpers.examples import make_frames
from tests.helpers.training import TEMPLATE, attach, read_by_name

SIDES = (
    Side("a.mp4", "<think>a red circle moves</think>", mos=(4.0, 2.5)),
    Side("b.mp4", "<think>it rests", mos=(1.5, 3.0)),
)
PAIR = Pair("p0", "a circle", *SIDES, (1.0, -1.0))
NAMES = ("motion", "look")
MASKS = {"cot_masking": "sampled", "cot_mask_prob": 1.0}, {"cot_masking": "both", "cot_mask_prob": 0.3}
TRAINED = Optimization({"language": 1e-3, "head": 1e-3})


@pytest.fixture(scope="module")
def models(build) -> dict[int, RewardModel]:
    """A model by its number of rewards, whose videos need no file."""
    found = {1: build(max_thought_tokens=6), 2: build(reward_names=NAMES, max_thought_tokens=6)}
    for model in found.values():
        model.processor.read = read_by_name
    return found


@pytest.fixture
def replayed(models, tmp_path, monkeypatch) -> Callable[[KeptStep], Replayed]:
    """Write a step of one pair, and replay it with the model of as many rewards."""

    def run(step: KeptStep) -> Replayed:
        model = models[len(step.pairs[0].preference)]
        monkeypatch.setattr(RewardModel, "from_pretrained", lambda folder: model)
        step.write(tmp_path / "rank-0.json")
        (found,) = replay(tmp_path, torch.device("cpu"))
        return found

    return run


def pair_of(num_rewards: int, preference: tuple[float, ...] = PAIR.preference) -> Pair:
    sides = (replace(side, mos=side.mos[:num_rewards]) for side in SIDES)
    return Pair(PAIR.id, PAIR.prompt, *sides, preference[:num_rewards])


def gradient_norm(model: RewardModel) -> float:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def check(found: Replayed, loss: float, norm: float) -> None:
    assert loss != 0
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert found.gradient_norm == pytest.approx(norm, rel=1e-3)
    assert not found.reason


def supervised_step(
    module: SupervisedSystem, model: RewardModel, pair: Pair, precision: str, read: Read = read_by_name
) -> tuple[Any, ...]:
    """Loss, gradient norm and kept step of training on one pair."""
    attach(module, model, precision=precision)
    batch = module.collator(training=True, read=read)(0, [pair])
    narrow = torch.autocast("cpu", torch.bfloat16) if precision.startswith("bf16") else nullcontext()
    model.zero_grad()
    with narrow:
        loss = module.training_step(batch, 0)
    loss.backward()
    return loss.item(), gradient_norm(model), module._describe_step()


def stage1_step(
    model: RewardModel, objective: PreferenceObjective, pair: Pair, precision: str = "32-true"
) -> tuple[Any, ...]:
    module = ColdStartModule(template=TEMPLATE, objective=objective, optimization=TRAINED)
    return supervised_step(module, model, pair, precision)


@pytest.mark.parametrize("masks", MASKS, ids=["sampled", "both"])
@pytest.mark.parametrize("loss", get_args(PairLossName))
def test_stage1_by_loss_and_masking(models, replayed, loss, masks):
    objective = PreferenceObjective(loss, theta=3.0, margin=0.25, **masks)
    *expected, step = stage1_step(models[1], objective, pair_of(1))
    check(replayed(step), *expected)


@pytest.mark.parametrize(
    ("options", "pair"),
    [
        ({"preference_weight": 3.0, "language_model_weight": 0.5}, pair_of(1)),
        ({"preference_weight": 0.0, "language_model_weight": 0.5, "cot_mask_prob": 0.0}, pair_of(1)),
        ({"cot_mask_prob": 0.0}, pair_of(1)),
        ({"loss": "rao_kupper"}, pair_of(1, (0.0,))),
        (MASKS[1], pair_of(2)),
        ({"loss": "mse", **MASKS[1]}, pair_of(2)),
        ({"loss": "margin"}, pair_of(2, (1.0, 0.0))),
        ({"loss": "rao_kupper"}, pair_of(2, (float("nan"), -1.0))),
        ({"loss": "mse"}, replace(pair_of(2), b=replace(SIDES[1], mos=(float("nan"), 3.0)))),
        (
            {"loss": "mse", "language_model_weight": 1.0, "cot_mask_prob": 0.0},
            replace(pair_of(1), b=replace(SIDES[1], mos=())),
        ),
    ],
)
def test_stage1_by_weights_rewards_and_labels(models, replayed, options, pair):
    *expected, step = stage1_step(models[len(pair.preference)], PreferenceObjective(**options), pair)
    check(replayed(step), *expected)


def test_stage1_in_half_precision(models, replayed):
    objective = PreferenceObjective(language_model_weight=0.5, **MASKS[1])
    *expected, step = stage1_step(models[1], objective, pair_of(1), "bf16-mixed")
    check(replayed(step), *expected)


@pytest.mark.parametrize("mask_prob", [0.0, 1.0], ids=["asks", "masked"])
def test_stage1_of_a_model_that_asks_for_frames(build, replayed, models, monkeypatch, mask_prob):
    model = build(tool=FrameTool(first_frames=2, frames_per_call=2), max_thought_tokens=200)
    model.processor.read = lambda path: make_frames(6, seed=sum(path.encode()))
    monkeypatch.setitem(models, 1, model)
    asking = replace(pair_of(1), a=replace(SIDES[0], thought=f"Hm.{write_call([3, 4])}It moves.", mos=()))
    objective = PreferenceObjective(cot_mask_prob=mask_prob, language_model_weight=0.5 * (1 - mask_prob))
    module = ColdStartModule(
        template=TEMPLATE, objective=objective, optimization=TRAINED, thoughts=model.settings.tool, own_thought_pairs=1
    )
    module.settings = model.settings
    *expected, step = supervised_step(module, model, asking, "32-true", read=model.processor.read)
    check(replayed(step), *expected)


def test_the_checklist(build, replayed, models, monkeypatch):
    questions = (Question("style", 1, "Does the style fit?"), Question("subject", 2, "Is the subject right?"))
    model = build(reward_from="checklist", thoughts=False, checklist=questions)
    model.processor.read = read_by_name
    monkeypatch.setitem(models, 1, model)
    a, b = (Side(side.video, scores=dict.fromkeys(DIMENSIONS, 2 - i)) for i, side in enumerate(SIDES))
    module = ChecklistModule(template=TEMPLATE, optimization=Optimization({"language": 1e-3}))
    *expected, step = supervised_step(module, model, Pair("p0", "a circle", a, b, (1.0,)), "32-true")
    check(replayed(step), *expected)


PAIRWISE = {"template": "1 {video:1} 2 {video:2} {prompt}", "reward_from": "choice", "max_thought_tokens": 6}


@pytest.mark.parametrize("thoughts", [False, True])
def test_the_choice_with_thoughts_and_without(build, replayed, models, monkeypatch, thoughts):
    model = build(**PAIRWISE, thoughts=thoughts)
    model.processor.read = read_by_name
    monkeypatch.setitem(models, 1, model)
    optimization = Optimization({"language": 1e-3})
    module = ChoiceModule(template="pair_rendered", thoughts=thoughts, optimization=optimization)
    pair = replace(pair_of(1), thoughts=("<think>it moves", "a red circle")[:2])
    *expected, step = supervised_step(module, model, pair, "32-true")
    check(replayed(step), *expected)


def test_stage2_on_thoughts_about_two_videos(build, replayed, models, monkeypatch):
    model = build(**PAIRWISE)
    model.processor.read = read_by_name
    monkeypatch.setitem(models, 1, model)
    *expected, step = stage2_step(model, pair_of(1), weights=LossWeights(kl=0.5, calibration=0.0))
    check(replayed(step), *expected)


def stage2_step(model: RewardModel, pair: Pair, **options: Any) -> tuple[Any, ...]:
    """Loss, gradient norm and kept step of the second update on one pair: its thoughts are older than the weights.

    The reference is not the policy any more either.
    """
    defaults = {
        "sampling": Sampling(num_thoughts=3, temperature=1.0),
        "weights": LossWeights(kl=0.5, calibration=0.5),
        "rubric": Rubric({"tests.helpers.rules.even_codes": 1.0}),
        "batching": Batching(update_epochs=2),
    }
    module = RLModule("somewhere", **defaults | {"optimization": TRAINED} | options)
    attach(module, model)
    batch = module.collator(training=True, read=read_by_name)(0, [pair])
    taken: list[tuple[float, float, KeptStep]] = []

    def keep(loss: Tensor, describe: Callable[[], KeptStep]) -> None:
        taken.append((loss.item(), gradient_norm(model), describe()))
        if len(taken) == 1:
            model.zero_grad()
            shake(model)

    module._step = keep
    model.zero_grad()
    module.training_step(batch, 0)
    first, second = taken
    assert first[0] != pytest.approx(second[0], rel=1e-3), "the losses of both updates can be told apart"
    return second


def shake(model: RewardModel) -> None:
    """Move what trains, as an optimizer step would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (one for one in model.parameters() if one.requires_grad):
            weight.add_(torch.empty_like(weight).normal_(0, 0.05, generator=generator) * weight.abs().mean())


ALGORITHMS = [{"algorithm": AlgorithmOptions(name)} for name in get_args(AlgorithmName)]
OWN = {"clip_low": 0.01, "clip_high": 0.02, "clip_dual": 1.05, "average": "vl_norm", "advantage": "rloo"}
ESTIMATORS = [{"kl_estimator": name} for name in get_args(KLEstimator)]
WEIGHTS = [
    {"weights": LossWeights(policy=3.0, kl=0.0, calibration=0.25)},
    {"weights": LossWeights(policy=0.0, kl=0.0, calibration=1.0)},
    {"weights": LossWeights(policy=0.0, kl=1.0, calibration=0.0)},
]
SAMPLINGS = [
    {"sampling": Sampling(num_thoughts=3, temperature=0.7)},
    {"sampling": Sampling(num_thoughts=3, temperature=1.3, top_p=0.8)},
    {"sampling": Sampling(num_thoughts=2, temperature=1.0, top_k=5)},
    {"sampling": Sampling(num_thoughts=4, temperature=1.0, max_tokens=3)},
]


@pytest.mark.parametrize("options", [*ALGORITHMS, {"algorithm": AlgorithmOptions("grpo", **OWN)}, *ESTIMATORS], ids=str)
def test_stage2_by_algorithm_and_estimator(models, replayed, options):
    *expected, step = stage2_step(models[1], pair_of(1), **options)
    check(replayed(step), *expected)


@pytest.mark.parametrize("options", [*WEIGHTS, *SAMPLINGS], ids=str)
def test_stage2_by_weights_and_sampling(models, replayed, options):
    *expected, step = stage2_step(models[1], pair_of(1), **options)
    check(replayed(step), *expected)


@pytest.mark.parametrize("preference", [(1.0, -1.0), (0.0, -1.0), (float("nan"), 1.0)])
def test_stage2_with_several_rewards(models, replayed, preference):
    *expected, step = stage2_step(models[2], pair_of(2, preference))
    check(replayed(step), *expected)
