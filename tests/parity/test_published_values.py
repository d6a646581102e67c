"""Our functions against what the published code gives on the same inputs; the commits are in published_values.json."""

import json
from pathlib import Path

import pytest
import torch

from descore.advantages import group_advantages
from descore.losses.pair_losses import Labels, PairLossName, mean_over_usable, pair_loss
from descore.losses.policy import KLEstimator, PolicyVariant, kl_divergence, policy_loss
from descore.losses.token_weights import Average
from descore.metrics import preference_accuracy
from descore.rewards import PUBLISHED_WEIGHTS, format_reward, quality_reward

PUBLISHED = json.loads(Path(__file__).with_name("published_values.json").read_text(encoding="utf-8"))
PUBLISHED_INVALID = 22


def stage1() -> tuple[torch.Tensor, torch.Tensor, Labels]:
    published = PUBLISHED["stage1"]
    preference = [float("nan") if label == PUBLISHED_INVALID else label for label in published["label"]]
    labels = Labels(*(torch.tensor(column) for column in (preference, published["score_a"], published["score_b"])))
    return torch.tensor(published["reward_a"]), torch.tensor(published["reward_b"]), labels


NAMES: list[tuple[PairLossName, str]] = [
    ("bradley_terry", "bt"),
    ("rao_kupper", "btt"),
    ("margin", "margin"),
    ("constant_margin", "constant_margin"),
    ("scaled", "scaled"),
]


@pytest.mark.parametrize(("ours", "theirs"), NAMES)
def test_stage1_loss_of_each_pair(ours, theirs):
    reward_a, reward_b, labels = stage1()
    published = torch.tensor(PUBLISHED["stage1"]["per_pair"][theirs])
    torch.testing.assert_close(pair_loss(ours)(reward_a, reward_b, labels), published, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), NAMES)
def test_stage1_mean_is_over_the_pairs_that_count(ours, theirs):
    """Of the 7 pairs 2 are ties and 1 is invalid: 4 count, 6 where ties do. The published mean divides by 7."""
    reward_a, reward_b, labels = stage1()
    loss = pair_loss(ours)
    mean = mean_over_usable(loss(reward_a, reward_b, labels), loss.usable(labels))
    num_usable = 6 if ours == "rao_kupper" else 4
    published = sum(PUBLISHED["stage1"]["per_pair"][theirs]) / num_usable
    assert mean.item() == pytest.approx(published, rel=1e-5)


@pytest.mark.parametrize("published", PUBLISHED["ties"], ids=lambda published: f"{len(published['human'])} pairs")
def test_accuracy_with_and_without_ties(published):
    """The published sweep lacks only the threshold below all margins, which calls right what counts without ties."""
    ours = preference_accuracy(published["margin"], published["human"])
    assert ours.without_ties == pytest.approx(published["without_ties"], abs=1e-12)
    calling_no_ties = ours.without_ties * ours.num_decided / ours.num_pairs
    assert ours.with_ties == pytest.approx(max(published["with_ties"], calling_no_ties), abs=1e-12)


def test_group_advantages():
    published = PUBLISHED["grpo"]
    assert published["groups"] == [0, 0, 0, 0, 1, 1, 1, 1]
    advantages = group_advantages(torch.tensor(published["rewards"]).view(2, 4))
    torch.testing.assert_close(advantages.flatten(), torch.tensor(published["advantage"]), rtol=1e-6, atol=1e-6)


VARIANTS: dict[str, PolicyVariant] = {"default": "grpo", "gspo_token": "gspo", "cispo": "cispo"}
AVERAGES: dict[str, Average] = {"token": "token", "seq": "sequence"}


@pytest.mark.parametrize(
    "case", PUBLISHED["policy"]["cases"], ids=lambda case: f"{case['loss_type']}, {case['average']} mean"
)
def test_policy_loss(case):
    """The published "higher" counts the tokens clipped at either bound, "lower" those clipped by the dual clip."""
    published = PUBLISHED["policy"]
    new, old, advantages, mask = (torch.tensor(published[name]) for name in ("new", "old", "adv", "mask"))
    loss, metrics = policy_loss(
        new.requires_grad_(),
        old,
        advantages,
        mask,
        clip_low=published["clip_low"],
        clip_high=published["clip_high"],
        clip_dual=published["clip_dual"],
        variant=VARIANTS[case["loss_type"]],
        average=AVERAGES[case["average"]],
    )
    (gradient,) = torch.autograd.grad(loss, new)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient, torch.tensor(case["grad"]), rtol=1e-5, atol=1e-7)
    theirs = case["metrics"]
    assert metrics["kl_to_old"].item() == pytest.approx(theirs["ppo_kl"], rel=1e-5)
    if case["average"] == "token":
        assert metrics["entropy"].item() == pytest.approx(theirs["entropy_loss"], rel=1e-5)
    if case["loss_type"] != "cispo":
        clipped = metrics["clipped_low"] + metrics["clipped_high"]
        assert clipped.item() == pytest.approx(theirs["pg_clipfrac_higher"], abs=1e-6)
        assert metrics["clipped_dual"].item() == pytest.approx(theirs["pg_clipfrac_lower"], abs=1e-6)


ESTIMATORS: list[tuple[KLEstimator, str]] = [("low_var", "low_var_kl"), ("kl", "kl"), ("abs", "abs"), ("mse", "mse")]


@pytest.mark.parametrize(("ours", "theirs"), ESTIMATORS)
def test_kl_divergence(ours, theirs):
    published = PUBLISHED["kl"]
    kl = kl_divergence(torch.tensor(published["logp"]), torch.tensor(published["ref"]), estimator=ours)
    torch.testing.assert_close(kl, torch.tensor(published[theirs]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", PUBLISHED["rollout_reward"]["cases"], ids=lambda case: case["response"][-30:])
def test_rollout_reward(case):
    """Given the thought tags that the published rules do not ask for, the rewards are equal but for one answer.

    That answer lacks four dimensions: the published rules give it full format and the share that is right, ours 0.
    """
    truth = json.loads(PUBLISHED["rollout_reward"]["ground_truth"].removeprefix("<answer>").removesuffix("</answer>"))
    text = f"<think></think>{case['response']}"
    complete = "style" in case["response"]
    assert format_reward(text) == (case["format"] if complete else 0)
    for side, video in (("quality_a", "video_1_scores"), ("quality_b", "video_2_scores")):
        assert quality_reward(text, truth[video]) == pytest.approx(case[side] if complete else 0, abs=1e-12)


def test_rollout_reward_weights():
    assert dict(PUBLISHED_WEIGHTS) == PUBLISHED["rollout_reward"]["weights"]
