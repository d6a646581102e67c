"""A training step of stage 2: what its options reach, and how its gradients are clipped or dropped."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from descore.frame_tool.settings import FrameTool
from descore.losses.policy import KLEstimator
from descore.model.sampling import Sampling
from descore.modules.options import Batching, Lora, Optimization
from descore.modules.rl import RLModule
from descore.modules.step_metrics import Means, Stopwatch
from descore.objectives.algorithms import ALGORITHMS, AlgorithmOptions
from descore.objectives.dual import LossWeights
from descore.objectives.kept_step import KeptStep
from descore.rewards import Rubric
from descore.types import Group, Pair, Side, Thought
from tests.helpers.training import attach, read_by_name

LANGUAGE = {"learning_rates": {"language": 1e-3, "head": 1e-3}}
EVEN = Rubric({"tests.helpers.rules.even_codes": 1.0})
PAIRS = [Pair(f"p{index}", "a circle", Side(f"a{index}"), Side(f"b{index}"), (1.0,)) for index in range(3)]


def module_of(optimization: dict | None = None, **options: object) -> RLModule:
    defaults = {"sampling": Sampling(num_thoughts=2, temperature=1.0, max_tokens=4), "rubric": EVEN}
    return RLModule("somewhere", optimization=Optimization(**LANGUAGE | (optimization or {})), **defaults | options)


class Steps:
    """An optimizer, or a schedule, that counts its steps."""

    def __init__(self) -> None:
        self.num = self.num_cleared = 0

    def step(self) -> None:
        self.num += 1

    def zero_grad(self) -> None:
        self.num_cleared += 1


def with_steps(module: RLModule, monkeypatch: pytest.MonkeyPatch) -> tuple[Steps, Steps]:
    optimizer, schedule = Steps(), Steps()
    monkeypatch.setattr(module, "optimizers", lambda: optimizer)
    monkeypatch.setattr(module, "lr_schedulers", lambda: schedule)
    module.means = Means()
    return optimizer, schedule


@pytest.mark.parametrize(("limit", "expected"), [(0.5, 0.5), (0.0, 5.0), (9.0, 5.0)])
def test_gradients_are_clipped_at_the_limit_and_0_switches_it_off(build, monkeypatch, limit, expected):
    module = module_of({"gradient_clip": limit})
    attach(module, build())
    optimizer, schedule = with_steps(module, monkeypatch)
    weight = module.model.head.weight
    weight.grad = torch.zeros_like(weight)
    weight.grad[0, :2] = torch.tensor([3.0, 4.0])
    module._step(torch.zeros(()), lambda: pytest.fail("nothing is skipped"))
    assert weight.grad.norm().item() == pytest.approx(expected, rel=1e-4)
    assert (optimizer.num, optimizer.num_cleared, schedule.num) == (1, 1, 1)
    assert module.means.compute()["train/skipped_share"] == 0


@pytest.mark.parametrize(("loss", "gradient"), [(0.0, math.nan), (math.inf, 1.0)])
def test_a_step_that_is_not_finite_is_not_taken(build, monkeypatch, tmp_path, loss, gradient):
    module = module_of()
    attach(module, build(), log_dir=str(tmp_path))
    optimizer, schedule = with_steps(module, monkeypatch)
    weight = module.model.head.weight
    weight.grad = torch.full_like(weight, gradient)
    kept = KeptStep("rl", 0, "32-true", {}, {}, tuple(PAIRS), ())
    with pytest.warns(UserWarning, match=r"step 0 is skipped.*p0, p1, p2"):
        module._step(torch.tensor(loss), lambda: kept)
    assert (optimizer.num, optimizer.num_cleared, schedule.num) == (0, 1, 0)
    assert module.means.compute()["train/skipped_share"] == 1


@pytest.mark.parametrize("name", get_args(KLEstimator))
def test_the_objective_has_the_options_of_the_module(build, name):
    weights = LossWeights(policy=2.0, kl=0.1, calibration=0.3)
    module = module_of(kl_estimator=name, weights=weights, algorithm=AlgorithmOptions("dapo", clip_high=0.5))
    attach(module, build())
    objective = module.objective
    assert (objective.kl_estimator, objective.weights, objective.max_tokens) == (name, weights, 4)
    assert (objective.algorithm.clip_high, objective.algorithm.resample) == (0.5, ALGORITHMS["dapo"].resample)
    assert (module.rollout_settings.resample, module.rollout_settings.advantage) == (3, "grpo")


def test_thoughts_are_sampled_anew_every_epoch(build):
    module = module_of()
    attach(module, build())
    batch = module.collator(training=True, read=read_by_name)(0, PAIRS)
    module.clock = Stopwatch(torch.device("cpu"))
    texts = []
    for epoch in (0, 0, 1):
        module._trainer.current_epoch = epoch
        texts.append([group.texts for group in module._roll_out(batch).groups])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("batching", "steps"),
    [
        (Batching(), [[0, 1, 2]]),
        (Batching(mini_batch_pairs=2), [[0, 1], [2]]),
        (Batching(update_epochs=2, mini_batch_pairs=2), [[0, 1], [2], [0, 1], [2]]),
    ],
)
def test_a_rollout_batch_is_gone_through_in_mini_batches(build, batching, steps):
    module = module_of(batching=batching, weights=LossWeights(kl=0.0))
    logged = attach(module, build())
    taken = []

    def step(loss: Tensor, describe: object) -> None:
        taken.append([int(pair.id[1]) for pair in describe().pairs])

    module._step = step
    module.training_step(module.collator(training=True, read=read_by_name)(0, PAIRS), 0)
    assert taken == steps
    assert 0 < logged["rollout/reward"] <= 1
    assert logged["rollout/thought_tokens"] <= 4


def test_micro_batches_add_up_to_the_loss_and_the_gradients_of_the_mini_batch(build):
    found = []
    for size in (0, 1, 2):
        module = module_of(batching=Batching(micro_batch_pairs=size), weights=LossWeights(kl=0.5, calibration=0.5))
        attach(module, build())
        with torch.no_grad():
            module.reference.head.weight.zero_()  # not read
            module.reference.base.get_input_embeddings().weight.mul_(1.1)
        module._step = lambda loss, describe: found.append(loss.item())
        module.training_step(module.collator(training=True, read=read_by_name)(0, PAIRS), 0)
        found.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.sharding.trained()])))
    assert found[:2] == pytest.approx(found[2:4], rel=1e-4)
    assert found[:2] == pytest.approx(found[4:], rel=1e-4)
    assert found[0] != 0


def test_a_frozen_copy_is_kept_only_where_the_adapter_does_not_tell_the_reference_apart():
    adapter = {"lora": Lora(("language",), rank=2, alpha=4)}
    assert module_of().copies_reference
    assert not module_of(adapter).copies_reference
    assert not module_of(weights=LossWeights(kl=0.0)).copies_reference
    assert not module_of({"learning_rates": {"query": 1e-3, "head": 1e-3}}).copies_reference


def test_the_reference_is_the_model_before_training(build):
    """Its log-probabilities are those of the sampler, however the adapter has moved since."""
    for optimization in ({}, {"lora": Lora(("language",), rank=2, alpha=4)}):
        sampling = Sampling(num_thoughts=2, temperature=0.7, max_tokens=4)
        module = module_of(optimization, weights=LossWeights(kl=1.0), sampling=sampling)
        attach(module, build())
        module.clock = Stopwatch(torch.device("cpu"))
        rollouts = module._roll_out(module.collator(training=True, read=read_by_name)(0, PAIRS))
        with torch.no_grad():
            for weight in module.sharding.trained():
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(module._reference_logprobs(rollouts), rollouts.old_logprobs, atol=1e-4, rtol=1e-4)


def test_the_vision_tower_runs_once_unless_it_trains():
    assert module_of().look_once
    assert not module_of({"learning_rates": {"language": 1e-3, "merger": 1e-3}}).look_once
    assert not module_of({"learning_rates": {"language": 1e-3, "vision": 1e-3}}).look_once


def test_thoughts_longer_than_the_model_reads_are_refused(build):
    with pytest.raises(ValueError, match=r"sampling\.max_tokens is 9.*at 6 tokens"):
        attach(module_of(sampling=Sampling(2, max_tokens=9, temperature=1.0)), build(max_thought_tokens=6))
    with pytest.raises(ValueError, match="thoughts=false"):
        attach(module_of(), build(thoughts=False))
    pairwise = {"template": "{video:1}{video:2}{prompt}", "reward_from": "choice"}
    with pytest.raises(ValueError, match=r"calibration is 0\.005, but this model compares two"):
        attach(module_of(), build(**pairwise))
    with pytest.raises(ValueError, match=r"has agreement, quality, which cannot grade thoughts about two videos"):
        attach(module_of(rubric=Rubric({"quality": 1.0, "agreement": 1.0})), build(**pairwise))
    with pytest.raises(ValueError, match="has verdict, which cannot grade thoughts about one video"):
        attach(module_of(rubric=Rubric({"verdict": 1.0})), build())
    with pytest.raises(ValueError, match="own_thought_pairs is 0"):
        module_of(own_thought_pairs=0)


def test_a_model_that_asks_for_frames_is_refused(build):
    with pytest.raises(ValueError, match="this model asks for frames in several; pass one trained without a tool"):
        attach(module_of(), build(tool=FrameTool()))


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(1, temperature=1.0), "num_thoughts is 1; expected at least 2"),
        (Sampling(4, temperature=0.0), "temperature is 0 .* would be alike"),
        (Sampling(4, temperature=1.0, top_k=1), "top_k 1: .* would be alike"),
    ],
)
def test_groups_that_cannot_teach_are_refused(sampling, message):
    with pytest.raises(ValueError, match=message):
        module_of(sampling=sampling)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_16_bits_are_refused(build, precision):
    with pytest.raises(ValueError, match=f"precision is {precision}; expected 32-true or bf16-mixed"):
        attach(module_of(), build(), precision=precision)


def test_thoughts_about_two_videos_are_graded_by_the_label_as_they_see_it(build, monkeypatch):
    """Where A is preferred, "A" is right with A first, and "B" with B first. What does not think first is not whole."""
    says = ["<think>x</think><answer>Video 1 is better</answer>", "<answer>Video 2 is better"]

    def scripted(model, videos, sampling, *, names, seen):
        assert len(seen) == 2 * len(videos.layout.prefix_lengths), "two videos in each context"
        thoughts = (Thought((7,)), Thought((7, 8)))
        old = (torch.zeros(1), torch.zeros(2))
        return [Group(thoughts, tuple(says), old, torch.zeros(2, 1)) for _ in names]

    monkeypatch.setattr("descore.thinking.rollouts.think", scripted)
    rubric = Rubric({"verdict": 1.0, "format": 0.5})
    module = module_of(rubric=rubric, weights=LossWeights(kl=0.0, calibration=0.0))
    attach(module, build(template="{video:1}{video:2}{prompt}", reward_from="choice"))
    module.clock = Stopwatch(torch.device("cpu"))
    pairs = [replace(pair, preference=(label,)) for pair, label in zip(PAIRS, (1.0, -1.0, math.nan), strict=True)]
    rollouts = module._roll_out(module.collator(training=True, read=read_by_name)(0, pairs))
    assert rollouts.parts["verdict"][[0, 1, 3, 4]].tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert rollouts.parts["format"].tolist() == [[1, 0]] * 6
    assert rollouts.rewards[[0, 1, 3, 4]].tolist() == [[1.5, 0], [0.5, 1], [0.5, 1], [1.5, 0]]
    assert rollouts.rewards[[2, 5]].isnan().all(), "a pair without a usable label counts for nothing"
    assert not rollouts.mask[[2, 5]].any()


def test_a_step_on_thoughts_about_two_videos(build):
    module = module_of(rubric=EVEN, weights=LossWeights(kl=0.5, calibration=0.0))
    logged = attach(module, build(template="{video:1}{video:2}{prompt}", reward_from="choice"))
    losses = []
    module._step = lambda loss, describe: losses.append(loss)
    module.training_step(module.collator(training=True, read=read_by_name)(0, PAIRS), 0)
    assert torch.nn.utils.get_total_norm([p.grad for p in module.sharding.trained() if p.grad is not None]) > 0
    assert "train/preference_accuracy" not in logged
    assert len(losses) == 1
