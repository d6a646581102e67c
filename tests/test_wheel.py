"""The wheel, built and used in a folder that knows nothing of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import descore

ROOT = Path(__file__).parents[1]
USE = """
from descore.evaluation.benchmark import load_benchmark
from descore.modules.checklist import ChecklistModule
from descore.modules.cold_start import ColdStartModule
assert load_benchmark("genai_bench", root="data").preset == "genai_bench"
for module in (ColdStartModule(backbone="tiny"), ChecklistModule()):
    module.configure_model()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel would put into site-packages."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(source / "dist")]
    subprocess.run([sys.executable, "-m", "pip", *build, str(source)], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """Run Python in a folder with the wheel alone."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_benchmarks_templates_and_the_tiny_backbone_are_found_in_any_folder(installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "-c", f"import descore; assert descore.__file__.startswith({str(installed)!r})\n{USE}")


def test_the_command_lists_its_benchmarks_in_any_folder(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, tmp_path, "-m", "descore.cli", "evaluate", "--help")
    assert {f"{path.stem}" for path in (ROOT / "src/descore/benchmarks").iterdir()} <= set(
        shown.replace(",", " ").split()
    )


def test_there_is_one_version(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "-m", "descore.cli", "--version") == f"descore {descore.__version__}\n"
    assert (installed / f"descore-{descore.__version__}.dist-info").is_dir()
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]


def test_the_doctor_finds_all_well_in_any_folder(installed: Path, tmp_path: Path) -> None:
    assert "self-test  OK" in run(installed, tmp_path, "-m", "descore.cli", "doctor", "--device", "cpu")


def test_the_demo_scores_its_videos_in_any_folder(installed: Path, tmp_path: Path) -> None:
    shown = run(
        installed, tmp_path, "-m", "descore.cli", "score", "--model", "demo", "--no-thoughts", "--device", "cpu"
    )
    assert shown.count("  reward ") == 6
