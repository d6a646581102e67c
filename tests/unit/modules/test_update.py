"""How pairs are split over forwards and ranks, and which gradient norms are logged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from descore.model.sampling import Sampling
from descore.modules.options import Batching, Optimization
from descore.modules.rl import RLModule
from descore.modules.update import Ranks, split, split_on_ranks
from descore.objectives.dual import LossWeights
from descore.rewards import Rubric
from descore.types import Pair, Side
from tests.helpers.training import attach, read_by_name

PAIRS = [Pair(f"p{index}", "a circle", Side(f"a{index}"), Side(f"b{index}"), (1.0,)) for index in range(2)]


def ranks(most: int) -> Ranks:
    return Ranks(mean=lambda value: value, max=lambda value: torch.tensor(most))


def test_pieces_have_the_size_and_the_last_one_what_is_left():
    assert split(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert split(range(5), 0) == [[0, 1, 2, 3, 4]]
    assert split([], 0) == []


def test_a_rank_with_fewer_pieces_has_empty_ones_at_the_end():
    assert split_on_ranks([4, 5, 6], 2, ranks(2)) == [[4, 5], [6]]
    assert split_on_ranks([4], 2, ranks(3)) == [[4], [], []]


def test_a_micro_batch_without_pairs_adds_nothing(build):
    """As a rank has it that ran out of pairs: its forward takes place, and changes neither loss nor gradient."""
    found = []
    for most in (1, 2):
        module = module_of(build)
        module._max_over_ranks = lambda value, most=most: torch.tensor(most)
        loss, gradients, _ = step(module)
        found += [(loss, [gradient.clone() for gradient in gradients])]
    assert found[0][0] == pytest.approx(found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("micro", [2, 1])
def test_the_norms_of_both_objectives_are_those_of_each_alone(build, micro):
    logged, norms = {}, {}
    for kind, weights in {
        "both": LossWeights(policy=1.0, kl=0.0, calibration=0.5),
        "policy": LossWeights(policy=1.0, kl=0.0, calibration=0.0),
        "calibration": LossWeights(policy=0.0, kl=0.0, calibration=0.5),
    }.items():
        _, gradients, logged[kind] = step(module_of(build, weights, micro), log=True)
        norms[kind] = torch.nn.utils.get_total_norm(gradients).item()
    assert norms["policy"] != pytest.approx(norms["calibration"], rel=0.01)
    assert logged["both"]["grad/policy"] == pytest.approx(norms["policy"], rel=1e-4)
    assert logged["both"]["grad/calibration"] == pytest.approx(norms["calibration"], rel=1e-4)
    assert logged["both"]["train/loss"] == pytest.approx(
        logged["both"]["train/policy_loss"] + 0.5 * logged["both"]["train/calibration_loss"], rel=1e-5
    )


def module_of(build, weights: LossWeights = LossWeights(kl=0.0, calibration=0.5), micro: int = 2) -> RLModule:
    module = RLModule(
        "somewhere",
        sampling=Sampling(num_thoughts=2, temperature=1.0, max_tokens=4),
        rubric=Rubric({"tests.helpers.rules.even_codes": 1.0}),
        weights=weights,
        batching=Batching(micro_batch_pairs=micro),
        optimization=Optimization({"language": 1e-3, "head": 1e-3}),
    )
    module.logged = attach(module, build())
    return module


def step(module: RLModule, *, log: bool = False) -> tuple[float, list[Tensor], dict[str, float]]:
    """Loss and gradients of a step, and what it logs."""
    losses: list[float] = []
    module._step = lambda loss, describe: losses.append(loss.item())
    module._trainer._logger_connector.should_update_logs = log
    module.training_step(module.collator(training=True, read=read_by_name)(0, PAIRS), 0)
    gradients = [one.grad if one.grad is not None else torch.zeros_like(one) for one in module.sharding.trained()]
    return losses[0], gradients, module.logged
