"""The formulas of the memory and time model, against what torch saves, holds and counts."""

from __future__ import annotations

import pytest

from benchmarks.fits.check import KINDS, Run, held_bytes, kept_bytes, operations, peak_bytes
from benchmarks.fits.prediction import Plan, Rates, memory, seconds

FAST = Rates(products=4e14, memory=2e12, exchange=3e11, start=5e-4)


@pytest.mark.parametrize(
    "run",
    [
        Run(stage=1, rank=16, mixed=False, checkpointing=False, thoughts=1),
        Run(stage=1, rank=0, mixed=True, checkpointing=False, thoughts=1),
        Run(stage=1, rank=16, mixed=True, checkpointing=True, thoughts=1),
        Run(stage=2, rank=16, mixed=True, checkpointing=False, thoughts=3),
        Run(stage=2, rank=0, mixed=False, checkpointing=True, thoughts=3),
    ],
    ids=str,
)
def test_what_a_forward_pass_keeps_is_predicted(run: Run) -> None:
    predicted, measured = kept_bytes(run)
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_an_update_is_predicted(checkpointing: bool) -> None:
    predicted, measured = peak_bytes(Run(stage=1, rank=16, mixed=False, checkpointing=checkpointing, thoughts=1))
    assert predicted == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    "run",
    [
        Run(stage=1, rank=16, mixed=False, checkpointing=True, thoughts=1),
        Run(stage=2, rank=0, mixed=False, checkpointing=False, thoughts=3),
    ],
    ids=str,
)
def test_operations_are_those_that_torch_counts(run: Run) -> None:
    predicted, measured = operations(run)
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(("processes", "rank"), [(1, 0), (2, 16)])
def test_weights_gradients_and_moments_are_predicted_to_the_byte(processes: int, rank: int) -> None:
    predicted, measured = held_bytes(Run(stage=1, rank=rank, mixed=False, checkpointing=False, thoughts=1), processes)
    assert predicted == measured
    assert set(measured) == set(KINDS)


def test_more_gpus_hold_less_each() -> None:
    alone, shared = (memory(Plan("tiny", 2, 0, gpus, "fsdp")) for gpus in (1, 8))
    for kind in (*KINDS, "reference"):
        assert shared[kind] == pytest.approx(alone[kind] / 8, rel=0.05)
    assert shared["activations"] == alone["activations"]


def test_a_slow_network_is_what_a_step_waits_for() -> None:
    plan = Plan("tiny", 1, 0, 8, "fsdp")
    slow = Rates(FAST.products, FAST.memory, exchange=1e3, start=FAST.start)
    assert seconds(plan, FAST)["update"] < seconds(plan, slow)["update"]
    assert set(seconds(Plan("tiny", 2, 16, 1, "none"), FAST)) == {"think", "reference", "update"}


@pytest.mark.slow
def test_whole_weights_of_an_8b_in_stage_2_need_many_gpus() -> None:
    alone, shared = (memory(Plan("8B", 2, 0, *spread)) for spread in ((1, "none"), (8, "fsdp")))
    assert 140e9 < sum(alone[kind] for kind in (*KINDS, "reference")) < 145e9
    assert shared["peak"] < 80e9 < alone["peak"]
