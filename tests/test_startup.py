"""CPU time and packages that an import of descore and `descore --help` take; times are shares of `import torch`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import descore

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {re.match(r"[\w-]+", name)[0].replace("-", "_") for name in PROJECT["dependencies"]}
HELP = """
import contextlib, descore.cli
with contextlib.suppress(SystemExit):
    descore.cli.main([*{command!r}.split(), "--help"])
"""
SCORER = """
from time import process_time
import torch
from transformers import AttentionInterface, AutoModelForImageTextToText, AutoTokenizer, DynamicCache, PreTrainedModel
from transformers.masking_utils import sdpa_mask
theirs = process_time()
from descore import Scorer
ours = process_time() - theirs
assert ours < 0.2 * theirs, f"torch and transformers took {theirs:.2f} s, descore {ours:.2f} s more"
"""


def run(code: str) -> tuple[float, set[str]]:
    """Return the CPU seconds of a Python process that runs the code, and the dependencies that it imports."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in [*sys.modules]})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime, DEPENDENCIES & set(lines[-1].split())


def run_thrice(code: str) -> tuple[float, set[str]]:
    """Return the least of three times, since the first run compiles and other processes share its core."""
    seconds, packages = zip(*(run(code) for _ in range(3)), strict=True)
    return min(seconds), packages[0]


@pytest.fixture(scope="module")
def torch_seconds() -> float:
    seconds, packages = run("import torch")
    assert "torch" in packages
    return seconds


@pytest.mark.parametrize(
    "code",
    [
        "from descore import __version__",
        "from descore import Score",
        "from descore.inputs.settings import ModelSettings",
    ],
)
def test_an_import_takes_at_most_a_tenth_of_torch(code, torch_seconds):
    seconds, packages = run_thrice(code)
    assert seconds < 0.1 * torch_seconds
    assert packages == set()


@pytest.mark.parametrize("command", ["", "score", "import", "evaluate", "compare", "report", "replay", "serve"])
def test_help_takes_at_most_a_fifth_of_torch(command, torch_seconds):
    seconds, packages = run_thrice(HELP.format(command=command))
    assert seconds < 0.2 * torch_seconds
    assert packages <= {"rich"}


def test_a_scorer_takes_little_more_than_torch_and_transformers():
    _, packages = run(SCORER)
    assert not packages & {"decord", "jsonargparse", "lightning", "omegaconf", "peft", "rich", "torchmetrics"}


def test_a_comparison_of_evaluations_imports_no_model():
    _, packages = run("import descore.evaluation.comparison, descore.evaluation.folder")
    assert not packages & {"lightning", "peft", "torchmetrics", "transformers"}


def test_public_names_are_listed_and_others_refused():
    assert set(descore.__all__) <= set(dir(descore))
    classes = set(descore.__all__) - {"__version__"}
    assert all(getattr(descore, name).__name__ == name for name in classes)
    with pytest.raises(AttributeError, match="module 'descore' has no attribute 'Nothing'"):
        _ = descore.Nothing


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "2000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_threads_wait_shortly_unless_told_otherwise(environment: dict[str, str], expected: str) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    code = f"import descore, os, sys; assert 'torch' not in sys.modules; print(*map(os.environ.get, {names}))"
    inherited = {key: value for key, value in os.environ.items() if key not in names}
    found = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True)
    assert found.stdout.strip() == expected
