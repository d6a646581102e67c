import math
import time
from dataclasses import replace

import pytest
import torch

from descore.modules.step_metrics import Means, Stopwatch, count_rollouts
from descore.thinking.rollouts import Rollouts
from descore.types import Group, Pair, Side, Thought

NAN = float("nan")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, to be moved by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_means_are_weighted_name_by_name():
    """loss: (1 * 2 + 3 * 8) / 4 = 6.5; reward, counted once, is what it was; kl with weights of its own."""
    means = Means()
    means.add({"loss": 2.0, "reward": 0.25})
    means.add({"loss": 8.0}, 3)
    means.add({"kl": torch.tensor(4.0)}, torch.tensor(10))
    means.add({"kl": torch.tensor(1.0)}, torch.tensor(20))
    assert means.compute() == {"loss": 6.5, "reward": 0.25, "kl": 2.0}


def test_values_of_micro_batches_average_to_that_of_their_tokens():
    """Means over 2 and 6 tokens, weighed by their numbers, are the mean over all 8."""
    values = torch.arange(8.0) ** 2
    means = Means()
    for some in values.split([2, 6]):
        means.add({"entropy": some.mean()}, torch.tensor(len(some)))
    assert means.compute()["entropy"] == values.mean()


def test_what_was_given_is_not_changed_and_more_can_follow():
    """Sums in place would also change the first value, which a step still needs."""
    value, means = torch.tensor(1.0), Means()
    means.add({"loss": value})
    assert means.compute() == {"loss": 1.0}
    means.add({"loss": torch.tensor(3.0)})
    assert means.compute() == {"loss": 2.0}
    assert value == 1


def test_nothing_is_logged_of_nothing():
    assert Means().compute() == {}
    assert Stopwatch(torch.device("cpu")).compute() == {}


def test_a_phase_adds_up_and_what_lies_between_is_left_out(clock):
    """think 2 + 3 s with 10 + 40 tokens, backward 0.5 s without a count; 7 s belong to neither."""
    watch = Stopwatch(torch.device("cpu"))
    for phase, seconds, pause in (("think", 2.0, 7.0), ("backward", 0.5, 0.0), ("think", 3.0, 0.0)):
        with watch(phase):
            clock[0] += seconds
        clock[0] += pause
    watch.count("think", 10)
    watch.count("think", 40)
    assert watch.compute() == {"time/think": 5.0, "time/backward": 0.5, "time/think_tokens_per_second": 10.0}


def test_a_phase_lasts_until_the_device_is_done(clock, monkeypatch):
    """The device works off 4 s that were queued before, then 3 s of the phase's own, while the host waits for it."""
    queued, device = [4.0], torch.device("cuda:0")

    def synchronize(waited_for: torch.device) -> None:
        assert waited_for == device
        clock[0] += sum(queued)
        queued.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    watch = Stopwatch(device)
    with watch("forward"):
        queued.append(3.0)
    assert watch.compute() == {"time/forward": 3.0}


def test_the_host_is_never_waited_for(clock, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: pytest.fail("there is nothing to wait for"))
    watch = Stopwatch(torch.device("cpu"))
    with watch("forward"):
        clock[0] += 1.0
    assert watch.compute() == {"time/forward": 1.0}


def test_a_value_without_weight_does_not_count_and_a_name_without_any_is_nan():
    """Left out, Lightning would log its last value once more."""
    means = Means()
    means.add({"quality": NAN}, 0)
    assert math.isnan(means.compute()["quality"])
    means.add({"quality": 0.5}, 2)
    assert means.compute() == {"quality": 0.5}


def test_ranks_share_their_sums_not_their_means():
    """This rank has 1 value of 8, another 3 of 4: the mean is (8 + 3 * 4) / 4 = 5."""
    other = torch.tensor([[12.0], [3.0]], dtype=torch.float64)
    means = Means()
    means.add({"tokens": 8.0})
    assert means.compute("cpu", lambda sums: (sums + other) / 2) == {"tokens": 5.0}


def rollouts_of(rewards: list[list[float]], preference: float) -> Rollouts:
    """One pair; thought 1 of each video has one token and is closed, thought 2 has four and is cut; A scores 1, B 0."""
    thoughts = (Thought((7,), closed=True), Thought((7,) * 4))
    graded = torch.tensor(rewards, dtype=torch.float64)
    return Rollouts(
        pairs=(Pair("p", "", Side(""), Side(""), (preference,)),),
        preference=torch.tensor([[preference]]),
        groups=tuple(Group(thoughts, ("", ""), (), torch.full((2, 1), head)) for head in (1.0, 0.0)),
        rewards=graded,
        parts={"quality": graded / 2},
        advantages=torch.zeros(2, 2),
        old_logprobs=torch.zeros(2, 2, 4),
        mask=torch.ones(2, 2, 4).bool(),
        prefixes=(),
        seen=None,
    )


def test_rollouts_by_hand():
    """A has the rewards 0 and 2, thus a spread of sqrt 2; of B one thought failed, which leaves it without spread."""
    means = Means()
    count_rollouts(means, rollouts_of([[0.0, 2.0], [4.0, NAN]], preference=1.0))
    expected = {"rollout/reward": 2.0, "rollout/reward_spread": 2**0.5, "rollout/failed_share": 0.25}
    expected |= {"rollout/quality": 1.0, "rollout/quality_spread": 0.5**0.5, "rollout/no_spread_share": 0.5}
    expected |= {"rollout/thought_tokens": 2.5, "rollout/truncated_share": 0.5, "train/preference_accuracy": 1.0}
    assert means.compute() == pytest.approx(expected)


def test_a_thought_that_is_not_closed_is_truncated():
    """One of four."""
    rollouts, means = rollouts_of([[0.0, 1.0], [0.0, 1.0]], preference=1.0), Means()
    a, b = rollouts.groups
    count_rollouts(means, replace(rollouts, groups=(replace(a, thoughts=(a.thoughts[0],) * 2), b)))
    assert means.compute()["rollout/truncated_share"] == 0.25


def test_accuracy_is_over_decided_pairs_of_all_batches():
    """A is scored higher: right where A is preferred, wrong where B is; a tie and an unknown label do not count."""
    means = Means()
    for preference in (1.0, 1.0, -1.0, 0.0, NAN):
        count_rollouts(means, rollouts_of([[0.0, 1.0], [NAN, NAN]], preference))
    assert means.compute()["train/preference_accuracy"] == pytest.approx(2 / 3)


def test_rewards_are_averaged_over_the_thoughts_that_did_not_fail():
    """Rewards 0, 2 and 4 of one batch, 10 of another: 16 / 4, not the mean of their means."""
    means = Means()
    for rewards in ([[0.0, 2.0], [4.0, NAN]], [[NAN, NAN], [NAN, 10.0]]):
        count_rollouts(means, rollouts_of(rewards, preference=1.0))
    found = means.compute()
    assert (found["rollout/reward"], found["rollout/quality"], found["rollout/failed_share"]) == (4, 2, 0.5)
    assert found["rollout/reward_spread"] == pytest.approx(2**0.5), "of the one group that has two rewards"
