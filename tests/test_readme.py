"""Every command that the README, the docs and the configurations show is one that the programs understand."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from descore.cli import make_parser
from descore.modules.rl import RLModule
from descore.modules.supervised import SupervisedSystem
from descore.train import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "conf").rglob("*.yaml"))]


def commands_of(page: Path) -> list[str]:
    """Commands of the code blocks, or of the comments that head a configuration, without the remarks beside them."""
    text = page.read_text()
    blocks = (
        re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        if page.suffix == ".md"
        else ["\n".join(re.findall(r"^#   ?(.*)", text, re.MULTILINE))]
    )
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
    return [re.split(r"\s{3,}| +# ", line.strip())[0] for line in lines]


def shown(*programs: str) -> dict[str, str]:
    """Commands that begin so, and the first page that shows each."""
    found: dict[str, str] = {}
    for page in PAGES:
        for command in commands_of(page):
            if command.startswith(programs):
                found.setdefault(command, str(page.relative_to(ROOT)))
    return found


def failures(check: Callable[[str], None], *programs: str) -> list[str]:
    """Check every command, and tell page, command and reason of each that fails."""
    failed = []
    for command, page in shown(*programs).items():
        said = io.StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                check(command)
        except (Exception, SystemExit) as error:
            reason = said.getvalue().rpartition("error: ")[2][:500]
            failed.append(f"{page}: {command}\n    {type(error).__name__}: {error} {reason}")
    return failed


def test_the_search_finds_commands() -> None:
    assert {"make train-stage2", "make test"} <= shown("make ").keys()
    assert len(shown("descore score")) >= 3


def is_target(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def builds(command: str) -> None:
    """Build what a training command builds, on a CPU and without the checkpoint that it resumes from."""
    stage = shlex.split(command)[1].removeprefix("train-")
    options = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    assert options.keys() <= {"CONF", "FROM", "ARGS", "RESUME"}
    files = ["-c", *options.get("CONF", f"conf/{stage}.yaml").split()]
    arguments = shlex.split(options.get("ARGS", ""))
    if "--ckpt_path" in arguments:
        place = arguments.index("--ckpt_path")
        del arguments[place : place + 2]
    cli = main([*files, *arguments, "--trainer.accelerator", "cpu", "--trainer.devices", "1"], run=False)
    assert isinstance(cli.model, {"stage1": SupervisedSystem, "stage2": RLModule}[stage])


def is_understood(command: str) -> None:
    assert callable(make_parser().parse_args(shlex.split(command)[1:]).run)


def has_a_file(command: str) -> None:
    words = shlex.split(command)
    path = words[words.index("-m") + 1].replace(".", "/") if "-m" in words else words[1].removesuffix(".py")
    files = [root / f"{path}{end}" for root in (ROOT, ROOT / "src") for end in (".py", "/__main__.py")]
    assert any(file.is_file() for file in files), f"none of {', '.join(map(str, files))} is there"


def test_make_knows_its_targets() -> None:
    assert not (failed := failures(is_target, "make ")), "\n".join(failed)


def test_training_builds_what_its_options_ask_for() -> None:
    assert not (failed := failures(builds, "make train-stage1", "make train-stage2")), "\n".join(failed)


def test_descore_understands_its_options() -> None:
    assert not (failed := failures(is_understood, "descore ")), "\n".join(failed)


def test_what_python_is_asked_to_run_is_there() -> None:
    assert not (failed := failures(has_a_file, "python ", ".venv/bin/python ")), "\n".join(failed)


def test_a_command_that_fails_is_told_with_its_page() -> None:
    failed, *_ = failures(lambda command: main(["--nothing", "1"], run=False), "make test")
    assert failed.startswith("README.md: make test\n    SystemExit: 2 ")
    assert "--nothing" in failed
