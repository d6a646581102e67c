"""Evaluations of real files that are killed by SIGKILL, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_evaluation_that_is_killed_three_times_ends_as_one_that_is_not():
    command = [
        sys.executable,
        "-m",
        "tests.robustness.killed_evaluations",
        "--kills",
        "3",
        "--pairs",
        "6",
        "--tokens",
        "12",
    ]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 videos in 3 batches" in done.stdout
    assert "3 kills: " in done.stdout
    assert "0 evaluations differ" in done.stdout
