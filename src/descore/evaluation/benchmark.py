"""Benchmarks: where a table is, how it is read, and which videos it asks to be scored.

# conf/benchmarks/mine.yaml
description: 500 pairs of our own, labelled in May.
table: pairs.csv                    # relative to --root, as the videos are to the table
preset: descore                     # or a published layout: docs/data.md lists them
dimensions: [overall]
ties: [tie]                         # optional: the labels that count as a tie; all of the layout if not given
root: data/mine                     # optional: where it lies if --root is not given
make:                               # optional: a function that makes the table, called with root and these arguments
  function: my_package.render
  arguments: {num_pairs: 500}
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from descore.tables.pairs import OnBadRow, PairTable, VideoTable, read_pairs, read_videos
from descore.tables.presets import PRESETS, VIDEO_PRESETS

CONF = Path("conf/benchmarks")


@dataclass(frozen=True, slots=True)
class Maker:
    """What makes a table that is not there.

    Attributes:
        function: Dotted path of a function; it is called with `root` and the arguments.
        arguments: By name.
        sources: Folder that its package may lie in, beside those of Python.
    """

    function: str
    arguments: dict[str, Any]
    sources: Path


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A table to evaluate a model on.

    Attributes:
        name: Its name.
        root: Folder that the names of videos are relative to.
        table: The table; its video paths are relative to its own folder.
        preset: Layout of the table.
        dimensions: Reward dimensions to compare.
        ties: Labels that count as a tie, or None for all that the layout calls so.
        description: What it is, and where it comes from.
        maker: What makes the table, if that can be done.
    """

    name: str
    root: Path
    table: Path
    preset: str = "descore"
    dimensions: tuple[str, ...] = ("overall",)
    ties: tuple[str, ...] | None = None
    description: str = ""
    maker: Maker | None = None

    @property
    def has_pairs(self) -> bool:
        """Whether the table has pairs; it has single videos with opinion scores otherwise."""
        return self.preset not in VIDEO_PRESETS

    def read(self, on_bad_row: OnBadRow = "error") -> PairTable | VideoTable:
        """Read the table, made first where it can be; whether the videos are there is not looked at.

        Args:
            on_bad_row: As for `read_pairs`.

        Raises:
            FileNotFoundError: If the table is not there.
            ValueError: If it cannot be read; see `read_pairs` and `read_videos`.
        """
        if self.maker is not None:
            _make(self.maker, self.root)
        if not self.table.is_file():
            raise FileNotFoundError(
                f"{self.table}: expected the table of the benchmark {self.name} there, found none; "
                f"say where it lies with --root FOLDER or --table FILE. {self.description}".rstrip()
            )
        if self.preset not in (known := [*PRESETS, *VIDEO_PRESETS]):
            raise ValueError(f"expected a preset of {', '.join(known)}, got {self.preset!r}")
        options: dict[str, Any] = {
            "preset": self.preset,
            "dimensions": self.dimensions,
            "on_bad_row": on_bad_row,
            "check_videos": False,
        }
        if not self.has_pairs:
            return read_videos(self.table, **options)
        return read_pairs(self.table, **options, ties=self.ties)


def load_benchmark(
    name: str,
    *,
    root: str | Path | None = None,
    table: str | Path | None = None,
    dimensions: Sequence[str] | None = None,
) -> Benchmark:
    """Read the YAML of a benchmark.

    Args:
        name: Name of a file in conf/benchmarks, of the current folder or of the source checkout, or a path to a YAML.
        root: Folder of the benchmark's data; the YAML's own if not given.
        table: A table to read instead of the YAML's, such as one that was fetched under another name.
        dimensions: Reward dimensions to compare, instead of the YAML's.

    Raises:
        ValueError: If there is no such benchmark, its YAML has an unknown or missing key, or nothing says where the
            data is.
    """
    path = _find(name)
    values = _load(path)
    folder = root or values.root
    if folder is None:
        raise ValueError(
            f"the benchmark {path.stem} needs to know where its data is: expected --root, the folder with "
            f"{values.table}. {values.description}"
        )
    make = values.make
    maker = None if make is None or table else Maker(make.function, make.arguments, _sources(path))
    return Benchmark(
        name=path.stem,
        root=Path(folder),
        table=Path(table) if table else Path(folder) / values.table,
        preset=values.preset,
        dimensions=tuple(dimensions or values.dimensions),
        ties=None if values.ties is None else tuple(values.ties),
        description=values.description,
        maker=maker,
    )


def table_benchmark(
    table: str | Path,
    *,
    root: str | Path | None = None,
    preset: str = "descore",
    dimensions: Sequence[str] = ("overall",),
) -> Benchmark:
    """Make a benchmark of any table; its name is the file's, and its root the file's folder if not given."""
    table = Path(table)
    return Benchmark(table.stem, Path(root or table.parent), table, preset, tuple(dimensions))


def known_benchmarks() -> dict[str, Path]:
    """List the benchmarks by name, those of the current folder before those of the source checkout."""
    folders = (CONF, Path(__file__).parents[3] / CONF)
    found = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in reversed(found)}


@dataclass
class _Make:
    function: str = MISSING
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class _File:
    """The keys of a YAML."""

    description: str = MISSING
    table: str = MISSING
    root: str | None = None
    preset: str = "descore"
    dimensions: list[str] = field(default_factory=lambda: ["overall"])
    ties: list[str] | None = None
    make: _Make | None = None


def _find(name: str) -> Path:
    known = known_benchmarks()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        names = ", ".join(sorted(known)) or "none here"
        raise ValueError(f"expected a benchmark of {names}, or the path of a YAML, got {name!r}")
    return path


def _load(path: Path) -> _File:
    try:
        values: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(_File), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path}: {first}; expected the keys {', '.join(_File.__annotations__)}") from error
    assert isinstance(values, _File)
    return values


def _sources(path: Path) -> Path:
    """Return the folder that conf/benchmarks/NAME.yaml lies in."""
    return [*path.absolute().parents][:3][-1]


def _make(maker: Maker, root: Path) -> None:
    module, _, name = maker.function.rpartition(".")
    with _also_from(maker.sources):
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"expected {maker.function}, which makes this benchmark's table, to be there: {error}; "
                "run from the root of the source checkout"
            ) from error
    function(root=root, **maker.arguments)


@contextmanager
def _also_from(folder: Path) -> Iterator[None]:
    """Import from one more folder."""
    sys.path.append(os.fspath(folder))
    try:
        yield
    finally:
        sys.path.remove(os.fspath(folder))
