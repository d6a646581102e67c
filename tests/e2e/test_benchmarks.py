"""Every benchmark runs as a command at a small size, and exits with 1 where ours and the plain way disagree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]

SMALL = "--width 64 --layers 2 --vocabulary 2000 --prefix 200 --frames 2 --side 64 --thought 12 --repeats 1"
STAGE2 = f"{SMALL} --num-thoughts 2 --lora-rank 4"
SPEED = {
    "stage1_step": (f"{SMALL} --memory", ["packed", "two calls", "plain"]),
    "stage2_update": (f"{STAGE2} --checkpointing", ["packed", "published"]),
    "thinking": (f"{SMALL} --num-thoughts 2 --videos 2", ["think", "generate", "plain"]),
    "loader": ("--pairs 2 --batch-size 1 --workers 1 --repeats 1", ["decode", "read", "loader", "loader, cache"]),
}
WRONG_ATTENTION = """
import runpy, sys
from descore.model import shared_prefix
attend = shared_prefix._attend_video
shared_prefix._attend_video = lambda *inputs: 1.01 * attend(*inputs)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def rows_of(name: str, arguments: str) -> list[list[str]]:
    """Cells of the Markdown tables that a benchmark prints, without their heads."""
    done = run("-m", f"benchmarks.{name}", *arguments.split())
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rules = [index for index, line in enumerate(lines) if line.startswith("|--")]
    heads = {index - 1 for index in rules} | set(rules)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for i, line in enumerate(lines) if i not in heads]


@pytest.mark.parametrize("name", SPEED)
def test_a_benchmark_compares_ours_with_the_plain_way(name: str) -> None:
    arguments, ways = SPEED[name]
    rows = rows_of(f"speed.{name}", f"{arguments} --markdown")
    assert [row[0] for row in rows] == ways
    assert all(float(cell.replace(",", "")) >= 0 for row in rows for cell in row[1:])


@pytest.mark.parametrize("name", ["stage2_update", "thinking"])
def test_a_benchmark_stops_where_ours_is_wrong(name: str) -> None:
    done = run("-c", WRONG_ATTENTION, f"benchmarks.speed.{name}", *SPEED[name][0].split())
    assert done.returncode == 1
    assert "no measurement is valid" in done.stderr or "greedy tokens" in done.stderr


def test_the_benchmark_for_a_gpu_runs_on_a_cpu() -> None:
    small = "--prefix 90 --frames 2 --thought 3 --num-thoughts 2 --repeats 1"
    rows = rows_of("speed.gpu", f"--shape tiny --device cpu {small}")
    assert len(rows) == 14
    assert all(float(row[2]) > 0 for row in rows)
    assert [row[1] for row in rows if row[3] == "1.00" and row[4].endswith("%")] == ["packed"] * 3 + ["think"] * 2


def test_the_formulas_of_what_fits_are_what_is_measured() -> None:
    rows = rows_of("fits.check", "--markdown")
    assert len(rows) == 16 + 4


def test_whole_weights_of_an_8b_in_stage_2_need_many_gpus() -> None:
    rows = rows_of("fits", "--shapes 8B --gpus 1 8 --markdown")
    alone, shared = (row for row in rows if row[1:3] == ["2", "full"])
    weights, fits = 4, -2
    assert float(shared[weights]) == pytest.approx(float(alone[weights]) / 8, rel=0.02)
    assert (alone[fits], shared[fits]) == ("no", "yes")
