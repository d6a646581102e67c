"""Benchmarks: a labelled table of videos, described by a YAML file.

# conf/benchmarks/mine.yaml
description: 500 pairs of our own, labelled in May.
table: pairs.csv               # relative to --root; the video paths in the table are relative to the table
preset: descore                # layout of the table; docs/data.md lists the published ones
dimensions: [overall]          # reward dimensions to compare
ties: [tie]                    # optional: labels that count as a tie; all ties of the layout if not given
root: data/mine                # optional: folder of the data if --root is not given
make:                          # optional: function that makes the table, called with root and the arguments
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

from descore.evaluation.benchmark_files import find_benchmark
from descore.tables.faults import did_you_mean
from descore.tables.pairs import OnBadRow, PairTable, VideoTable, read_pairs, read_videos
from descore.tables.presets import PRESETS, VIDEO_PRESETS


@dataclass(frozen=True, slots=True)
class Maker:
    """A function that makes a benchmark's table.

    Attributes:
        function: Dotted path of the function.
        arguments: Keyword arguments of the function, besides `root`.
        sources: Folder to import the function from, in addition to Python's own search path.
    """

    function: str
    arguments: dict[str, Any]
    sources: Path


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A labelled table to evaluate a model on.

    Attributes:
        name: Name of the benchmark.
        root: Folder that video names in an evaluation are relative to.
        table: Path of the table; its video paths are relative to its own folder.
        preset: Layout of the table.
        dimensions: Reward dimensions to compare.
        ties: Labels that count as a tie; None takes all ties of the layout.
        description: What the benchmark holds, and where its data comes from.
        maker: Function that makes the table; None if the data has to be there.

    >>> Benchmark("mine", Path("data"), Path("data/pairs.csv")).has_pairs
    True
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
        """Whether the table holds pairs; otherwise it holds single videos with opinion scores."""
        return self.preset not in VIDEO_PRESETS

    def read(self, on_bad_row: OnBadRow = "error") -> PairTable | VideoTable:
        """Read the table, after making it if it has a maker. The video files are not checked.

        Args:
            on_bad_row: "error" stops at a row that cannot be used; "skip" leaves such rows out and counts them.

        Raises:
            FileNotFoundError: If the table does not exist.
            ValueError: If the preset is unknown, or the table cannot be read; see `read_pairs` and `read_videos`.
        """
        if self.maker is not None:
            _make(self.maker, self.root)
        if not self.table.is_file():
            raise FileNotFoundError(
                f"{self.table}: expected the table of the benchmark {self.name}, found no file; "
                f"give its location with --root FOLDER or --table FILE. {self.description}".rstrip()
            )
        if self.preset not in (known := [*PRESETS, *VIDEO_PRESETS]):
            meant = did_you_mean(self.preset, known)
            raise ValueError(f"expected a preset of {', '.join(known)}, got {self.preset!r}{meant}")
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
    """Load a benchmark from its YAML file.

    Args:
        name: Name of a benchmark of the package or in conf/benchmarks, without suffix, or the path of a YAML file. The
            current folder is searched first.
        root: Folder of the benchmark's data; the root in the YAML if not given.
        table: Table to read instead of the one in the YAML, such as one that was saved under another name.
        dimensions: Reward dimensions to compare instead of those in the YAML.

    Raises:
        ValueError: If there is no such benchmark, its YAML has an unknown or missing key, or neither the YAML nor
            `root` gives the folder of the data.
    """
    path = find_benchmark(name)
    values = _load(path)
    folder = root or values.root
    if folder is None:
        raise ValueError(
            f"the benchmark {path.stem} does not say where its data is: give the folder with --root FOLDER; it has to "
            f"hold {values.table}. {values.description}"
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
    """Make a benchmark of any table, named after its file.

    Args:
        table: Path of the table.
        root: Folder that video names in the evaluation are relative to; the table's folder if not given.
        preset: Layout of the table.
        dimensions: Reward dimensions to compare.

    >>> table_benchmark("data/pairs.csv").name
    'pairs'
    """
    table = Path(table)
    return Benchmark(table.stem, Path(root or table.parent), table, preset, tuple(dimensions))


@dataclass
class _Make:
    function: str = MISSING
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class _File:
    """The keys of a benchmark's YAML file."""

    description: str = MISSING
    table: str = MISSING
    root: str | None = None
    preset: str = "descore"
    dimensions: list[str] = field(default_factory=lambda: ["overall"])
    ties: list[str] | None = None
    make: _Make | None = None


def _load(path: Path) -> _File:
    try:
        values: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(_File), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path}: {first}; expected the keys {', '.join(_File.__annotations__)}") from error
    assert isinstance(values, _File)
    return values


def _sources(path: Path) -> Path:
    """Return the folder that holds conf/benchmarks/NAME.yaml."""
    return [*path.absolute().parents][:3][-1]


def _make(maker: Maker, root: Path) -> None:
    module, _, name = maker.function.rpartition(".")
    with _also_from(maker.sources):
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"expected the function {maker.function}, which makes this benchmark's table, but {error}; "
                "run from the root of the source checkout"
            ) from error
    function(root=root, **maker.arguments)


@contextmanager
def _also_from(folder: Path) -> Iterator[None]:
    """Context manager: let imports also search one more folder."""
    sys.path.append(os.fspath(folder))
    try:
        yield
    finally:
        sys.path.remove(os.fspath(folder))
