"""What the benchmarks of kills measure, a few times each: runs, saves, and a recipe that is broken on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def bench(*arguments: str) -> None:
    """Run a benchmark, whose exit code is the number of failures."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("stage", ["1", "2"])
def test_runs_that_are_killed_end_as_runs_that_are_left_alone(stage: str) -> None:
    bench("tests.robustness.kills", "--stage", stage, "--kills", "5")


@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_broken_recipe_is_noticed(stage: str) -> None:
    bench("tests.robustness.kills", "--stage", stage, "--mutations")


def test_saves_that_are_killed_leave_what_loads(tmp_path: Path) -> None:
    bench("tests.robustness.killed_saves", "--kills", "5", "--folders", str(tmp_path), "/dev/shm")
