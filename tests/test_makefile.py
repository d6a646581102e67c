"""`make demo`: every training has evaluations of its own, so that a new one asks for nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_demo_evaluates_the_newest_finished_start_of_each_stage(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for start in ("stage1/version_2", "stage1/version_10", "stage2/version_0"):
        (tmp_path / "runs" / start / "export/last").mkdir(parents=True)
        (tmp_path / "runs" / start / "export/last/descore.json").touch()
    (tmp_path / "runs/stage1/version_11").mkdir()  # a start that did not finish
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/.installed").touch()
    command = tmp_path / ".venv/bin/descore"
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(["make", "-s", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second, page = done.stdout.splitlines()
    assert first.startswith("evaluate --model runs/stage1 ")
    assert first.endswith("--output runs/demo/stage1-version_10")
    assert second.endswith("--output runs/demo/stage2-version_0")
    assert page.startswith("report runs/demo/stage1-version_10 runs/demo/stage2-version_0 ")
