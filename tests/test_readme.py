"""Every command that the README and the docs show is one that the programs understand."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from descore.cli import make_parser
from descore.modules.checklist import ChecklistModule
from descore.modules.cold_start import ColdStartModule
from descore.modules.rl import RLModule
from descore.train import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "conf").rglob("*.yaml"))]


def commands() -> list[str]:
    """Commands of the code blocks and of the comments that head a configuration, without the remarks beside them."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = (
            re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
            if page.suffix == ".md"
            else ["\n".join(re.findall(r"^#   ?(.*)", text, re.MULTILINE))]
        )
        lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
        found += [re.split(r"\s{3,}| +# ", line.strip())[0] for line in lines]
    return sorted({line for line in found if line.startswith(("make ", "descore ", "python ", ".venv/bin/python "))})


def of(program: str) -> list[str]:
    return [command for command in commands() if command.startswith(program)]


def test_the_search_finds_commands() -> None:
    assert {"make train-stage2", "make test"} <= set(of("make"))
    assert len(of("descore score")) >= 3


@pytest.mark.parametrize("command", of("make"))
def test_make_knows_its_targets(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [*of("make train-stage1 "), *of("make train-stage2 ")])
def test_training_understands_its_options(command: str) -> None:
    stage = shlex.split(command)[1].removeprefix("train-")
    options = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    assert options.keys() <= {"CONF", "FROM", "ARGS", "RESUME"}
    files = ["-c", *options.get("CONF", f"conf/{stage}.yaml").split()]
    arguments = shlex.split(options.get("ARGS", ""))
    if "--ckpt_path" in arguments:
        place = arguments.index("--ckpt_path")
        del arguments[place : place + 2]
    cli = main([*files, *arguments, "--trainer.accelerator", "cpu", "--trainer.devices", "1"], run=False)
    assert isinstance(cli.model, {"stage1": ColdStartModule | ChecklistModule, "stage2": RLModule}[stage])


@pytest.mark.parametrize("command", of("descore "))
def test_the_command_understands_its_options(command: str) -> None:
    assert callable(make_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("command", [*of("python"), *of(".venv/bin/python")])
def test_what_python_is_asked_to_run_exists(command: str) -> None:
    words = shlex.split(command)
    path = words[words.index("-m") + 1].replace(".", "/") + ".py" if "-m" in words else words[1]
    assert (ROOT / path).is_file() or (ROOT / "src" / path).is_file()
