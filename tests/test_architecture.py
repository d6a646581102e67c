"""The rules of the house, one test a rule. A rule that is broken lists every offender with its file and line."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "src" / "descore"
APPLICATION = ("data_modules", "callbacks")
CODE = ("src", *APPLICATION, "benchmarks", "pretraining")

# Package -> the packages it builds on; what those build on is open to it as well. A new package takes its place here.
BUILDS_ON = {
    "types": "",
    "seeding": "",
    "atomic": "",
    "answer": "types",
    "advantages": "answer",
    "rewards": "answer",
    "losses": "answer seeding atomic",
    "metrics": "answer seeding atomic",
    "video": "answer seeding atomic",
    "tables": "answer seeding atomic",
    "families": "types",
    "heads": "types",
    "frame_tool": "",
    "inputs": "video families heads frame_tool",
    "demo": "",
    "model": "inputs demo",
    "thinking": "model advantages rewards",
    "pairwise": "thinking",
    "objectives": "pairwise losses",
    "scoring": "pairwise tables",
    "selection": "scoring",
    "importing": "model",
    "evaluation": "scoring metrics",
    "serving": "__init__",
    "client": "scoring",
    "runtime": "model",
    "modules": "objectives metrics runtime",
    "report": "evaluation",
    "commands": "report objectives selection serving importing",
    "integrations": "selection serving",
    "__init__": "scoring",
    "cli": "commands __init__",
    "train": "modules __init__",
    "data_modules": "inputs tables",
    "callbacks": "model",
}
LIGHTNING = {"runtime", "modules", "train", *APPLICATION}
GROUND_FLOOR = {"__init__", "types", "answer", "seeding", "atomic", "advantages", "cli", "train"}
MAX_FILES, MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS = 14, 300, 50, 12


class Import(NamedTuple):
    """One imported name, and where that stands; a relative import begins with a dot."""

    path: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{at(self.path, self.line)} imports {self.name}"


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}:"


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def package_of(path: Path) -> str:
    return path.relative_to(LIBRARY if path.is_relative_to(LIBRARY) else ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path, tree: ast.Module) -> Iterator[Import]:
    """Every name that a file imports, in its functions and for its type checker too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}"
            yield from (Import(path, node.lineno, f"{module}.{alias.name}") for alias in node.names)


def imports(*folders: str) -> list[Import]:
    return [found for path in sources(*folders) for found in imports_of(path, parsed(path))]


def entered(name: str) -> str | None:
    """The package that an import enters: None outside the project, `__init__` for a name of descore itself."""
    top, _, rest = name.partition(".")
    if top != "descore":
        return top if top in (*APPLICATION, "benchmarks", "tests") else None
    package = rest.partition(".")[0]
    return package if package in BUILDS_ON else "__init__"


def open_to(package: str) -> set[str]:
    below = BUILDS_ON[package].split()
    return set(below).union(*(open_to(name) for name in below))


def breaks_the_table(package: str, name: str) -> bool:
    lightning = name.partition(".")[0] in {"lightning", "pytorch_lightning"}
    allowed = {None, package} | open_to(package)
    return name.startswith(".") or entered(name) not in allowed or (lightning and package not in LIGHTNING)


def circles(edges: Mapping[tuple[str, str], Import]) -> list[str]:
    """The imports of a circle, if there is one."""
    graph: dict[str, set[str]] = {}
    for user, used in edges:
        graph.setdefault(user, set()).add(used)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        around = error.args[1]
        return [str(edges[user, used]) for used, user in pairwise(around)]
    return []


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without those of its docstring."""
    first = function.body[0]
    is_docstring = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if is_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def num_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Arguments that a caller may name."""
    arguments = function.args
    named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return len([one for one in named if one.arg not in {"self", "cls"}])


def listed(offenders: list[str]) -> str:
    return "\n".join(["", *offenders])


def test_every_package_has_a_row_in_the_table() -> None:
    packages = {package_of(path) for path in sources("src", *APPLICATION)}
    assert packages == set(BUILDS_ON), "decide what a new package may import, and add its row to BUILDS_ON"


def test_imports_follow_the_table() -> None:
    found = imports("src", *APPLICATION)
    wrong = [str(one) for one in found if breaks_the_table(package_of(one.path), one.name)]
    assert not wrong, listed(wrong)


def test_no_circle_between_packages() -> None:
    edges = {(package_of(one.path), entered(one.name)): one for one in imports("src", *APPLICATION)}
    between = {(user, used): one for (user, used), one in edges.items() if used and used != user}
    assert not (found := circles(between)), listed(found)


def test_no_circle_between_files() -> None:
    names = {}
    for path in sources(*CODE):
        parts = path.relative_to(ROOT / "src" if path.is_relative_to(LIBRARY) else ROOT).with_suffix("").parts
        names[path] = ".".join(parts).removesuffix(".__init__")
    files, edges = set(names.values()), {}
    for one in imports(*CODE):
        used = one.name if one.name in files else one.name.rpartition(".")[0]
        if used in files:
            edges[names[one.path], used] = one
    assert not (found := circles(edges)), listed(found)


@pytest.mark.parametrize(
    "package", ["__init__", "scoring", "selection", "evaluation", "integrations", "commands", "cli"]
)
def test_scoring_and_evaluation_reach_no_package_that_imports_lightning(package: str) -> None:
    assert not LIGHTNING & (open_to(package) | {package})


def test_tests_import_no_benchmark() -> None:
    wrong = [str(one) for one in imports("tests") if entered(one.name) == "benchmarks"]
    assert not wrong, listed(wrong)


def test_benchmarks_import_the_project_and_the_oracle_of_the_tests_only() -> None:
    found = [one for one in imports("benchmarks") if entered(one.name) == "tests"]
    wrong = [str(one) for one in found if not one.name.startswith("tests.parity.")]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize(
    ("package", "source", "refused"),
    [
        ("losses", "import torch\nfrom descore.types import Pair\nfrom descore import answer", []),
        ("losses", "from descore.model.export import load", ["descore.model.export.load"]),
        ("losses", "def f():\n    import descore.model as m", ["descore.model"]),
        ("losses", "if TYPE_CHECKING:\n    from descore.model import export", ["descore.model.export"]),
        ("model", "from descore import Scorer, thinking", ["descore.Scorer", "descore.thinking"]),
        ("model", "from . import types", ["..types"]),
        ("modules", "from descore.modules.system import x\nfrom descore.types import Pair\nimport lightning", []),
        ("scoring", "from lightning.pytorch import Trainer", ["lightning.pytorch.Trainer"]),
        ("inputs", "from data_modules.world import scene", ["data_modules.world.scene"]),
        ("callbacks", "from descore.evaluation.run import evaluate", ["descore.evaluation.run.evaluate"]),
        ("callbacks", "from benchmarks.speed import harness", ["benchmarks.speed.harness"]),
        ("data_modules", "from data_modules.world import scene\nfrom descore.video.frames import Frames", []),
    ],
)
def test_the_check_of_imports_sees_what_it_should(package: str, source: str, refused: list[str]) -> None:
    found = imports_of(ROOT / "file.py", ast.parse(source))
    assert [one.name for one in found if breaks_the_table(package, one.name)] == refused


def test_a_circle_is_found_and_told_by_its_imports() -> None:
    steps = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]
    edges = {step: Import(ROOT / f"{step[0]}.py", 1, step[1]) for step in steps}
    assert set(circles(edges)) == {"a.py:1: imports b", "b.py:1: imports c", "c.py:1: imports a"}
    del edges["c", "a"]
    assert not circles(edges)


def test_public_files_alone_lie_on_the_ground_floor() -> None:
    files = {path.name for path in LIBRARY.iterdir() if path.is_file()}
    assert files == {f"{name}.py" for name in GROUND_FLOOR} | {"py.typed"}, "other files go into a package by subject"


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in sources(*CODE)}
    counts = {folder.relative_to(ROOT): len(list(folder.glob("*.py"))) for folder in folders}
    crowded = [f"{folder}: {count} files, at most {MAX_FILES}" for folder, count in counts.items() if count > MAX_FILES]
    assert not crowded, listed(sorted(crowded))


def test_no_file_or_function_is_long() -> None:
    long = []
    for path in sources(*CODE):
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES:
            long.append(f"{at(path, 1)} {lines} lines, at most {MAX_FILE_LINES} a file")
        for function in functions(path):
            if (lines := length(function)) > MAX_FUNCTION_LINES:
                long.append(f"{at(path, function.lineno)} {function.name}: {lines} lines, at most {MAX_FUNCTION_LINES}")
    assert not long, listed(long)


def test_no_function_has_many_arguments() -> None:
    many = [
        f"{at(path, function.lineno)} {function.name}: {count} arguments, at most {MAX_ARGUMENTS}"
        for path in sources(*CODE)
        for function in functions(path)
        if (count := num_arguments(function)) > MAX_ARGUMENTS
    ]
    assert not many, listed(many)


def test_the_library_prints_nothing() -> None:
    prints = [
        f"{at(path, node.lineno)} prints; only commands may"
        for path in sources("src")
        if package_of(path) != "commands"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints, listed(prints)


def test_no_file_is_called_utils() -> None:
    vague = [path for path in sources(*CODE, "tests") if "utils" in path.stem]
    assert not vague, listed([f"{at(path, 1)} say in the name what its functions are for" for path in vague])


def test_every_public_file_says_what_it_is() -> None:
    public = [path for path in sources(*CODE) if path.stem in {"__init__", "__main__"} or path.stem[0] != "_"]
    silent = [f"{at(path, 1)} has no module docstring" for path in public if not ast.get_docstring(parsed(path))]
    assert not silent, listed(silent)


def test_the_wheel_holds_the_library_only() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["packages"]["find"] == {"where": ["src"]}
    assert set(setuptools["package-data"]) == {"descore"}
    assert not {"py-modules", "package-dir"} & set(setuptools)
    assert {path.name for path in (ROOT / "src").iterdir() if path.suffix != ".egg-info"} == {"descore"}
