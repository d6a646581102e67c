"""The comparison of ways to show frames, as one quick command: its numbers mean nothing, but every way is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REPOSITORY = Path(__file__).parents[2]
FRAMES = {"first": {4}, "even": {8}, "all": {64}}


def run(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.looking", "--quick", "--seeds", "1", "--root", str(root)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_every_way_is_trained_and_measured_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    measured = {
        name: [json.loads(line) for line in (tmp_path / f"measured/{name}-0.jsonl").read_text().splitlines()]
        for name in ("first", "even", "all", "tool", "random")
    }
    assert {len(lines) for lines in measured.values()} == {8}
    videos = {name: [line[side] for line in lines for side in "ab"] for name, lines in measured.items()}
    assert {name: {video["num_frames"] for video in videos[name]} for name in FRAMES} == FRAMES
    assert not any(video["saw"] for video in videos["first"])
    assert all(video["saw"] for video in videos["all"])
    tokens = {name: max(video["num_tokens"] for video in own) for name, own in videos.items()}
    assert tokens["first"] < tokens["even"] < tokens["all"]
    assert len(done.stdout.strip().splitlines()) == 2 + len(measured)
    again = run(tmp_path)
    assert "tasks left" not in again.stderr
    assert again.stdout == done.stdout
