"""Every algorithm on one example that is worked by hand and tells it apart from all others.

One pair with two thoughts about each video, at most 10 tokens long. Thought 1 of A has 1 token and the rollout reward
2, thought 2 has 3 tokens and 0; the thoughts of B have 2 tokens each and equal rewards, so they only count in averages.

    advantages     grpo 1 / sqrt 2 and -1 / sqrt 2      dr_grpo 1 and -1      rloo 2 and -2
    ratios         1.5 in thought 1;  0.5, 1, 8 in thought 2, with the geometric mean 4^(1/3); p = 1/2
    weights        token 1/8     sequence 1/4 and 1/12     constant 1/40     vl_norm, 7/3 in all: 3/70 and 1/70
"""

from dataclasses import replace
from math import inf, log, sqrt
from typing import get_args

import pytest
import torch

from descore.advantages import group_advantages
from descore.losses.policy import policy_loss
from descore.objectives.algorithms import ALGORITHMS, Algorithm, AlgorithmName, AlgorithmOptions
from descore.objectives.dual import DualObjective
from descore.thinking.rollouts import Rollouts
from descore.types import Pair, Side

S = 1 / sqrt(2)
ROOT = 4 ** (1 / 3)
REWARDS = torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
LENGTHS = torch.tensor([[1, 3], [2, 2]])
RATIOS = torch.tensor([[[1.5, 1, 1], [0.5, 1, 8]], [[1, 1, 1], [1, 1, 1]]])

# The loss, and its slopes at the log-probability of the one token of thought 1 and the three of thought 2.
EXPECTED: dict[str, tuple[float, list[float]]] = {
    # -1.3 and 0.8 + 1 + 3: an upper bound of 1.3, a lower one of 0.8, and the dual clip at 3.
    "descore": (S * (-1.3 + 4.8) / 8, [0, 0, S / 8, 0]),
    # -1.2 / 4 and (0.8 + 1 + 8) / 12: no dual clip.
    "grpo": (S * (-1.2 / 4 + 9.8 / 12), [0, 0, S / 12, 8 * S / 12]),
    "dr_grpo": ((-1.2 + 9.8) / 40, [0, 0, 1 / 40, 8 / 40]),
    "dapo": (S * (-1.28 + 9.8) / 8, [0, 0, S / 8, S]),
    # One ratio a thought: 1.5 is clipped at 1.0004; 4^(1/3) is not, for its advantage is negative.
    "gspo": (S * (-1.0004 / 4 + 3 * ROOT / 12), [0, *[S * ROOT / 12] * 3]),
    # Weights 1.5 and 0.5, 1, 5 before log 1/2; no token loses its gradient.
    "cispo": (S * log(0.5) * (-1.5 + 6.5) / 8, [-1.5 * S / 8, 0.5 * S / 8, S / 8, 5 * S / 8]),
    "rloo": (2 * (-1.2 + 9.8) / 40, [0, 0, 2 / 40, 16 / 40]),
    "vl_norm": (S * (-1.2 * 3 + 9.8) / 70, [0, 0, S / 70, 8 * S / 70]),
    # The ratio of 8 is within 1000; advantages are 1 and -1.
    "stable_reinforce": ((-1.2 + 9.8) / 8, [0, 0, 1 / 8, 1]),
}


def rollouts_of(algorithm: Algorithm) -> Rollouts:
    mask = torch.arange(3) < LENGTHS[..., None]
    return Rollouts(
        pairs=(Pair("p", "a circle", Side("a.mp4"), Side("b.mp4"), (1.0,)),),
        preference=torch.ones(1, 1),
        groups=(),
        rewards=REWARDS,
        parts={},
        advantages=group_advantages(REWARDS, variant=algorithm.advantage),
        old_logprobs=(log(0.5) - RATIOS.log()) * mask,
        mask=mask,
        prefixes=(),
        seen=None,
    )


def loss_and_slopes(algorithm: Algorithm) -> tuple[float, list[float]]:
    rollouts, objective = rollouts_of(algorithm), DualObjective(algorithm, max_tokens=10)
    logprobs = torch.full((2, 2, 3), log(0.5), requires_grad=True)
    losses = objective(rollouts, [0], objective.shares(rollouts, [0]), logprobs, torch.zeros(2, 2, 1))
    losses.policy.backward()
    assert logprobs.grad is not None
    assert not logprobs.grad[1].any(), "a group of equal rewards pulls nowhere"
    return losses.policy.item(), logprobs.grad[0][rollouts.mask[0]].tolist()


def test_every_algorithm_is_worked_here_and_no_two_agree():
    assert set(EXPECTED) == set(ALGORITHMS) == set(get_args(AlgorithmName))
    assert len({round(loss, 6) for loss, _ in EXPECTED.values()}) == len(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loss_and_slopes_by_hand(name):
    loss, slopes = EXPECTED[name]
    found = loss_and_slopes(ALGORITHMS[name])
    assert found == (pytest.approx(loss, rel=1e-5), pytest.approx(slopes, rel=1e-5, abs=1e-9))


def test_one_setting_of_an_algorithm_can_be_another():
    """As the module's own arguments do it: grpo with the bounds and the average of descore is descore."""
    own = {"average": "token", "clip_high": 0.3, "clip_dual": 3.0}
    assert replace(ALGORITHMS["grpo"], **own) == ALGORITHMS["descore"]
    flat, half = (loss_and_slopes(replace(ALGORITHMS["vl_norm"], length_exponent=e))[0] for e in (0.0, 0.5))
    # Exponent 0 is the constant average: 1 / 40. With 1/2 the shares are 1, 1 / sqrt 3 and twice 1 / sqrt 2.
    assert flat == pytest.approx(S * (-1.2 + 9.8) / 40, rel=1e-5)
    assert half == pytest.approx(S * (-1.2 + 9.8 / sqrt(3)) / (10 * (1 + 1 / sqrt(3) + sqrt(2))), rel=1e-5)


def test_an_option_takes_the_place_of_one_value_and_of_no_other():
    own = {"advantage": "rloo", "policy": "cispo", "average": "constant", "clip_low": 0.0, "clip_high": 9.0}
    own |= {"clip_dual": 7.0, "resample": 5, "max_log_ratio": 2.0, "outlier_stds": 3.0}
    for name, value in own.items():
        expected = replace(ALGORITHMS["grpo"], **{name: value})
        assert AlgorithmOptions("grpo", **{name: value}).resolve() == expected != ALGORITHMS["grpo"]
    assert {name: AlgorithmOptions(name).resolve() for name in ALGORITHMS} == ALGORITHMS


def test_the_published_recipe_is_the_default_of_the_loss():
    """descore is what `policy_loss` gives without options, over all tokens at once."""
    rollouts, logprobs = rollouts_of(ALGORITHMS["descore"]), torch.full((4, 3), log(0.5))
    old, mask = rollouts.old_logprobs.flatten(0, 1), rollouts.mask.flatten(0, 1)
    loss, _ = policy_loss(logprobs, old, rollouts.advantages.flatten(), mask)
    assert loss.item() == pytest.approx(EXPECTED["descore"][0], rel=1e-5)


def test_only_dapo_samples_again_and_only_descore_clips_twice():
    assert {name: algorithm.resample for name, algorithm in ALGORITHMS.items() if algorithm.resample} == {"dapo": 3}
    assert {name for name, algorithm in ALGORITHMS.items() if algorithm.clip_dual < inf} == {"descore"}
