"""`descore score` of a table, killed at random moments and resumed: the same bytes, with shards and without.

`DESCORE_KILLS=20 pytest -m slow tests/robustness/test_killed_scores.py` kills twenty times each.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from descore.tables.writer import write_rows
from tests.helpers.killing import num_kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = num_kills(4)


@pytest.fixture
def command(build, clips: list[str], tmp_path: Path) -> list[str]:
    """The command that scores a table of 24 videos, without its output; one of them is missing."""
    build(max_thought_tokens=40).save_pretrained(str(tmp_path / "model"))
    videos = [*clips, "gone.mp4"] * 5
    write_rows(tmp_path / "t.csv", [{"prompt": f"a bar, {n}", "video": video} for n, video in enumerate(videos[:24])])
    options = [
        "--model",
        str(tmp_path / "model"),
        "--device",
        "cpu",
        "--max-batch-tokens",
        "1200",
        "--num-thoughts",
        "2",
    ]
    return [sys.executable, "-m", "descore.cli", "score", str(tmp_path / "t.csv"), *options]


def start(command: list[str], output: Path, shard: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "--output", str(output), "--shard", shard], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize("num_shards", [1, 2])
def test_a_scored_table_is_the_same_however_often_its_run_is_killed(command, tmp_path, num_shards):
    began = time.monotonic()
    assert start(command, tmp_path / "whole.csv", "1/1").wait() == 1, "a video is missing"
    seconds, dice, left = time.monotonic() - began, random.Random(num_shards), KILLS
    expected = (tmp_path / "whole.csv").read_bytes()
    for number in range(1, KILLS + 1):
        output, shards = tmp_path / f"killed{number}.csv", [f"{n}/{num_shards}" for n in range(1, num_shards + 1)]
        for shard in shards:
            process = start(command, output, shard)
            time.sleep(dice.uniform(0.1, 0.95) * seconds)
            left -= process.poll() is None
            process.kill()
            process.wait()
            assert not output.exists() or output.read_bytes() == expected, "whole or not at all"
        codes = [start(command, output, shard).wait() for shard in shards]
        assert codes[-1] == 1
        assert output.read_bytes() == expected
        assert not output.with_name(f"{output.name}.scores").exists()
    assert left < KILLS, "at least one run was killed before its end"
