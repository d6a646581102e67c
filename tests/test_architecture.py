"""The house rules that an import graph can show: who may import whom, and what stays out of the library."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "src" / "descore"
APPLICATION = ("data_modules", "callbacks")

# Room -> the rooms it builds on; what those build on is open to it as well. A new file takes its place here first.
BUILDS_ON = {
    "types": "",
    "seeding": "",
    "folders": "",
    "answer": "types",
    "prompts": "types answer",
    "video_checks": "types",
    "video_writer": "types",
    "video": "types answer video_checks",
    "decoding": "video",
    "frame_cache": "video",
    "token_weights": "",
    "losses": "types answer token_weights",
    "pair_losses": "losses",
    "advantages": "types answer",
    "rewards": "types answer",
    "columns": "",
    "agreement": "columns",
    "intervals": "columns seeding",
    "calibration": "agreement",
    "metrics": "agreement calibration intervals",
    "locations": "",
    "presets": "types answer locations",
    "pairs": "presets",
    "checklist": "types answer",
    "settings": "video checklist",
    "backbone": "",
    "processor": "backbone prompts settings decoding",
    "collate": "processor seeding",
    "cache": "types",
    "shared_prefix": "cache",
    "sampling": "",
    "segments": "",
    "merging": "processor",
    "export": "merging folders",
    "model": "export sampling seeding segments shared_prefix",
    "attention": "model",
    "parts": "model",
    "think": "model",
    "readings": "model",
    "algorithms": "advantages losses",
    "rollouts": "think rewards advantages",
    "objectives": "algorithms rollouts",
    "replay": "objectives pair_losses",
    "scoring": "think readings answer",
    "benchmark": "pairs",
    "plan": "decoding",
    "results": "folders",
    "summary": "results metrics rewards",
    "evaluate": "benchmark plan summary scoring",
    "report": "decoding summary",
    "commands": "evaluate replay report",
    "cli": "commands",
    "__init__": "scoring",
    "modules": "collate parts metrics readings replay folders",
    "train": "modules",
    "torchrun": "",
    "data_modules": "processor seeding video_writer frame_cache pairs",
    "callbacks": "types export folders",
}
LIGHTNING_ROOMS = {"modules", "train", *APPLICATION}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of_file(path: Path) -> str:
    parts = path.relative_to(LIBRARY if path.is_relative_to(LIBRARY) else ROOT).parts
    return parts[0].removesuffix(".py")


def room_of_import(dotted: str) -> str | None:
    """The room an import enters: None outside the project, `__init__` for a name of the package itself."""
    top, _, rest = dotted.partition(".")
    if top != "descore":
        return top if top in APPLICATION else None
    name = rest.partition(".")[0]
    return name if name in BUILDS_ON else "__init__"


def reachable(room: str) -> set[str]:
    below = BUILDS_ON[room].split()
    return set(below).union(*(reachable(name) for name in below))


def imports(source: str) -> set[str]:
    """Every dotted name that a source imports, in functions too; a relative import begins with a dot."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def forbidden_imports(room: str, source: str) -> list[str]:
    allowed = {None, room} | reachable(room)
    lightning = set() if room in LIGHTNING_ROOMS else {"lightning", "pytorch_lightning"}
    return sorted(
        name
        for name in imports(source)
        if name.startswith(".") or room_of_import(name) not in allowed or name.partition(".")[0] in lightning
    )


@pytest.mark.parametrize("path", sources("src", *APPLICATION), ids=name_of)
def test_imports_follow_the_table(path: Path) -> None:
    room = room_of_file(path)
    assert room in BUILDS_ON, f"{name_of(path)} has no row in BUILDS_ON: decide what it may import and add one"
    assert not forbidden_imports(room, path.read_text()), f"{room} may import {sorted(reachable(room))} only"


@pytest.mark.parametrize(
    ("room", "source", "expected"),
    [
        ("losses", "import torch\nfrom descore.types import Pair\nfrom descore import answer", []),
        ("losses", "from descore.model import RewardModel", ["descore.model.RewardModel"]),
        ("losses", "def f():\n    import descore.model as m", ["descore.model"]),
        ("model", "from descore import Scorer", ["descore.Scorer"]),
        ("model", "from descore import think", ["descore.think"]),
        ("model", "from . import types", ["..types"]),
        ("modules", "from descore.modules.steps import x\nfrom descore.types import Pair\nimport lightning", []),
        ("scoring", "from lightning.pytorch import Trainer", ["lightning.pytorch.Trainer"]),
        ("video", "from descore.processor import Processor", ["descore.processor.Processor"]),
        ("processor", "from data_modules.rendering import render_split", ["data_modules.rendering.render_split"]),
        ("callbacks", "from descore.model import RewardModel\nimport lightning", ["descore.model.RewardModel"]),
        ("data_modules", "from data_modules.rendering import render_split\nfrom descore.video import read_video", []),
    ],
)
def test_the_import_check_sees_what_it_should(room: str, source: str, expected: list[str]) -> None:
    assert forbidden_imports(room, source) == expected


@pytest.mark.parametrize("room", ["__init__", "scoring", "evaluate", "cli"])
def test_scoring_reaches_no_room_that_imports_lightning(room: str) -> None:
    assert not LIGHTNING_ROOMS & (reachable(room) | {room})


def test_the_wheel_holds_the_library_only() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["packages"]["find"] == {"where": ["src"]}
    assert set(setuptools["package-data"]) == {"descore"}
    assert not {"py-modules", "package-dir"} & set(setuptools)
    assert {path.name for path in (ROOT / "src").iterdir() if path.suffix != ".egg-info"} == {"descore"}


def test_no_file_is_called_utils() -> None:
    names = {name_of(path) for path in sources("src", *APPLICATION, "tests", "benchmarks") if "utils" in path.stem}
    assert not names, "say what the functions are for, and put them where that is"


@pytest.mark.parametrize("path", [path for path in sources("src") if path.parent.name != "commands"], ids=name_of)
def test_the_library_prints_nothing(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines, f"{name_of(path)} prints in lines {lines}: only commands may"


@pytest.mark.parametrize(
    "path",
    [path for path in sources("src", *APPLICATION, "benchmarks") if not path.stem.startswith("_")],
    ids=name_of,
)
def test_every_public_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no module docstring"
