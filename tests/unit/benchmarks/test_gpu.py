"""The benchmark for a GPU runs to its end on a CPU, so that it does when there is a GPU."""

from __future__ import annotations

import argparse

import pytest
import torch

from benchmarks.speed import gpu
from benchmarks.speed.bench import Bench


@pytest.mark.timeout(900)
def test_every_case_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--prefix", "90", "--frames", "2", "--thought", "3", "--num-thoughts", "2", "--repeats", "1")
    gpu.main(["--shape", "tiny", "--device", "cpu", *small])
    printed = capsys.readouterr().out
    ways = {"stage 1 step": 4, "stage 2 update": 2, "stage 2 step": 2, "think": 4, "score": 2, "reward of a thought": 2}
    for case, number in ways.items():
        assert sum(line.strip().startswith(case) for line in printed.splitlines()) == number, case
    assert "not reached" not in printed
    assert "out of memory" not in printed


def test_what_does_not_fit_and_what_comes_too_late_is_said() -> None:
    def too_large() -> float:
        raise torch.OutOfMemoryError

    bench = Bench(argparse.Namespace(device="cpu", budget=60.0, repeats=1, markdown=False), peak=1e9)
    bench.measure("large", "packed", too_large, tokens=1, operations=1)
    bench.measure("small", "packed", lambda: 2.0, tokens=10, operations=1e9)
    bench.measure("small", "plain", lambda: 5.0, tokens=10, operations=4e9)
    bench.options.budget = 0.0
    bench.measure("late", "packed", lambda: 1.0, tokens=1, operations=1)
    notes = [row[-1] for row in bench.rows]
    assert notes == ["out of memory", "", "", "not reached: no time left"]
    assert bench.rows[1][2:6] == ("2", "1.00", "5", "0.001")
    assert bench.rows[1][6] == "50%"
    assert bench.rows[2][3] == "2.50"
