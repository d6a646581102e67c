"""Faults that are put into the code on purpose, one by one: a test has to fail with each of them.

    python -m tests.robustness.mutants --jobs 2
    python -m tests.robustness.mutants --only "warm-up ignored"

The faults are in `faults.txt`. Each is put into a copy of the tree, its tests run there, and it is taken out again. The
exit code is the number of faults that no test notices.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("src", "conf", "data_modules", "callbacks", "tests", "pyproject.toml")
PACKAGES = ("torch", "transformers", "peft", "lightning", "torchmetrics", "scipy.stats", "av", "PIL.Image", "pytest")
"""What most tests import: the processes that run them are forked from one that has imported it."""
SECONDS = 600.0
"""Longest run of the tests of one fault; one that makes them hang is noticed."""
PASSED, FAILED = 0, 1
"""Exit codes of pytest."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault, and the tests of which one has to fail with it.

    Attributes:
        name: What is wrong.
        file: File of the tree.
        text: Text that occurs exactly once in the file.
        replacement: Text that takes its place.
        tests: Test files or node ids.
    """

    name: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def problems(self) -> list[str]:
        """Return what is wrong with the entry itself."""
        missing = [test for test in self.tests if not (ROOT / test.partition("::")[0]).is_file()]
        if missing or not (ROOT / self.file).is_file():
            return [f"{self}: there is no {missing[0] if missing else self.file}"]
        if (count := (ROOT / self.file).read_text().count(self.text)) != 1:
            return [f"{self}: expected its text once, found it {count} times: {self.text!r}"]
        return []

    @contextmanager
    def applied(self, root: Path) -> Iterator[None]:
        """Context manager: the fault is in the tree."""
        path = root / self.file
        before = path.read_text()
        path.write_text(before.replace(self.text, self.replacement))
        try:
            yield
        finally:
            path.write_text(before)

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def read_faults(path: Path) -> list[Mutant]:
    """Read a table of faults; its first lines say what it looks like."""
    file, tests, mutants = "", (), []
    for block in path.read_text().split("\n\n")[2:]:
        first, *lines = block.rstrip("\n").split("\n")
        if first.startswith("@ "):
            file, tests = first.removeprefix("@ "), tuple(line.strip() for line in lines)
            continue
        old, new = ("\n".join(line[2:] for line in lines if line.startswith(sign)) for sign in ("- ", "+ "))
        mutants.append(Mutant(first, file, old, new, tests))
    return mutants


MUTANTS = read_faults(Path(__file__).with_name("faults.txt"))


def run_tests(root: Path, tests: Sequence[str], seconds: float | None = None) -> tuple[int, str]:
    """Run some tests of a tree in a process of their own; return pytest's exit code and what it says."""
    output = root / "output.txt"
    process = _CONTEXT.Process(target=_run_pytest, args=(root, tests, output))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return FAILED, "they hang"
    return process.exitcode, output.read_text()


def _run_pytest(root: Path, tests: Sequence[str], output: Path) -> None:
    os.chdir(root)
    with output.open("w") as file:
        for number in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(file.fileno(), number)
    sys.dont_write_bytecode = True  # by its time and size, a fault that takes as much room would be missed
    sys.path[:0] = [str(root / "src"), str(root)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # this very file, of the tree that was copied
    sys.exit(pytest.main(["-x", "-q", "--timeout=60", "--no-header", "-p", "no:cacheprovider", *tests]))


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(PACKAGES))


def notice(mutant: Mutant, copies: Queue[Path]) -> str:
    """Return the empty text if a test fails with a fault, or what happens instead."""
    root = copies.get()
    try:
        with mutant.applied(root):
            code, output = run_tests(root, mutant.tests, SECONDS)
    finally:
        copies.put(root)
    if code == PASSED:
        return "its tests pass"
    return "" if code == FAILED else f"pytest ends with {code}: {output[-500:]}"


@contextmanager
def copies_of_the_tree(number: int) -> Iterator[Queue[Path]]:
    """Context manager: some copies of the tree, to be taken and given back."""
    with TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for index in range(number):
            copies.put(root := Path(folder, str(index)))
            root.mkdir()
            for name in COPIED:
                if (source := ROOT / name).is_dir():
                    shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, root / name)
        yield copies


def survivors(mutants: Sequence[Mutant], jobs: int) -> Iterator[Mutant]:
    """Try faults, and give those that no test notices.

    Raises:
        SystemExit: If the tests fail without a fault.
    """
    with copies_of_the_tree(jobs) as copies, ThreadPoolExecutor(jobs) as pool:
        code, output = run_tests(copies.queue[0], sorted({test for mutant in mutants for test in mutant.tests}))
        if code != PASSED:
            raise SystemExit(f"the tests fail without a fault:\n{output[-3000:]}")
        reasons = pool.map(lambda mutant: notice(mutant, copies), mutants)
        for number, (mutant, reason) in enumerate(zip(mutants, reasons, strict=True), start=1):
            print(f"{number}/{len(mutants)} {mutant}{f' SURVIVES: {reason}' if reason else ''}", flush=True)
            if reason:
                yield mutant


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return the number of faults that no test notices."""
    parser = argparse.ArgumentParser(description="Put faults into the code, and report those that no test notices.")
    only = "faults whose file or name has one of these texts in it"
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help=only)
    parser.add_argument("--jobs", type=int, default=1, help="number of faults that are tried at a time")
    options = parser.parse_args(args)
    if wrong := [problem for mutant in MUTANTS for problem in mutant.problems()]:
        raise SystemExit("\n".join(["the table is out of date:", *wrong]))
    chosen = [mutant for mutant in MUTANTS if any(text in str(mutant) for text in options.only)]
    if not chosen:
        raise SystemExit(f"no fault has one of {options.only} in its file or name")
    left = list(survivors(chosen, options.jobs))
    print("\n".join([f"{len(chosen) - len(left)} of {len(chosen)} faults are noticed", *map(str, left)]))
    return len(left)


if __name__ == "__main__":
    sys.exit(main())
