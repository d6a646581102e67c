"""Tables in shards: read and checked once, kept on disk as Arrow, and mapped into memory by every process.

Hugging Face `datasets` writes and maps the file. Each pair is at hand by its index, so order and position in an epoch
are those of a table in memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import fsspec
from fsspec.utils import get_protocol

from descore import answer, tables
from descore.tables.formats import READERS
from descore.tables.locations import is_url
from descore.tables.pairs import read_pairs
from descore.types import Pair

_TWICE = "an id that an earlier shard has"


def read_tables(location: str, *, folder: str | None = None, **options: Any) -> tuple[Sequence[Pair], dict[str, int]]:
    """Read the pairs of one or many tables, and count the rows that gave none by reason.

    A table that is one local file is held in memory. All others are read shard by shard, once for each state of theirs,
    and kept on disk; what `read_pairs` raises is raised then.

    Args:
        location: A local table, or tables in a folder, under a pattern such as `train/*.parquet`, or at a URL.
        folder: Where pairs are kept that are not held in memory; by default where `datasets` keeps its own.
        options: Those of `read_pairs`.

    Raises:
        FileNotFoundError: If there is no table.
        ImportError: If `datasets` or what the storage needs is not installed.
        ValueError: If a row is bad, or an id comes twice.
    """
    if os.path.isfile(location):
        found = read_pairs(location, **options)
        return found.pairs, found.num_rejected()
    shards = find_shards(location)
    stored = StoredPairs(_store(shards, folder, options))
    return stored, stored.num_rejected


def find_shards(location: str) -> list[str]:
    """Find the tables in a folder, under a pattern or at a URL, by name.

    Raises:
        FileNotFoundError: If there are none.
    """
    storage, where = fsspec.core.url_to_fs(location)
    if any(sign in where for sign in "*?["):
        found = storage.glob(where)
    else:
        found = storage.ls(where, detail=False) if storage.isdir(where) else [where]
    tables = sorted(name for name in found if PurePath(name).suffix.lower() in READERS and storage.isfile(name))
    if not tables:
        raise FileNotFoundError(f"{location}: expected tables that end in {', '.join(READERS)}, found none")
    return [storage.unstrip_protocol(name) if is_url(location) else name for name in tables]


class StoredPairs(Sequence[Pair]):
    """Pairs on disk, read when they are asked for.

    Args:
        dataset: One row a pair, and a last one that sums them up, as `_rows` gives them.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        summary = json.loads(dataset[len(dataset) - 1]["pair"])
        self.num_rejected: dict[str, int] = summary["rejected"]
        self.num_ungraded: int = summary["num_ungraded"]
        self.some_ungraded: list[str] = summary["some_ungraded"]

    def __len__(self) -> int:
        return len(self._dataset) - 1

    def __getitem__(self, index: Any) -> Any:
        """Read one pair, or with a slice a tuple of them."""
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[operator.index(index)]
        return Pair.from_dict(json.loads(self._dataset[place]["pair"]))

    def ids(self) -> Iterator[str]:
        """Give the ids of all pairs, without the rest of them."""
        for start in range(0, len(self), 10_000):
            yield from self._dataset[start : min(start + 10_000, len(self))]["id"]


def ids_of(found: Sequence[Pair]) -> Iterable[str]:
    """Give the ids of pairs in memory or on disk."""
    return found.ids() if isinstance(found, StoredPairs) else (pair.id for pair in found)


def ungraded(found: Sequence[Pair]) -> tuple[int, list[str]]:
    """Count the pairs that lack the annotated scores of a video, and name up to three."""
    if isinstance(found, StoredPairs):
        return found.num_ungraded, found.some_ungraded
    names = [pair.id for pair in found if not _is_graded(pair)]
    return len(names), names[:3]


def _store(shards: Sequence[str], folder: str | None, options: dict[str, Any]) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{shards[0]}: reading tables in shards needs pip install 'descore[shards]'") from error
    columns = {name: datasets.Value("string") for name in ("id", "pair")}
    try:
        return datasets.Dataset.from_generator(
            functools.partial(_rows, shards, options),
            features=datasets.Features(columns),
            cache_dir=folder,
            fingerprint=_fingerprint(shards, options),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def _rows(shards: Sequence[str], options: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Read and check shard after shard, and sum them up in the end."""
    seen: set[str] = set()
    rejected: Counter[str] = Counter()
    lacking: list[str] = []
    for shard in shards:
        table = read_pairs(shard, row_names=f"{PurePath(shard).name}:", **options)
        rejected.update(table.num_rejected())
        for pair in table.pairs:
            if pair.id in seen:
                if options.get("on_bad_row", "error") == "error":
                    raise ValueError(f"{shard}: expected ids that no earlier shard has, got {pair.id!r}; rename it")
                rejected[_TWICE] += 1
                continue
            seen.add(pair.id)
            if not _is_graded(pair):
                lacking.append(pair.id)
            yield {"id": pair.id, "pair": json.dumps(asdict(pair))}
    summary = {"rejected": rejected, "num_ungraded": len(lacking), "some_ungraded": lacking[:3]}
    yield {"id": "", "pair": json.dumps(summary)}


def _fingerprint(shards: Sequence[str], options: dict[str, Any]) -> str:
    """Name the shards in their present state, how they are read, and the code that does it."""
    storage = fsspec.filesystem(get_protocol(shards[0]))
    states = [(shard, storage.ukey(shard)) for shard in shards]
    code = [path.read_bytes() for path in (*sorted(Path(tables.__file__).parent.glob("*.py")), Path(answer.__file__))]
    return hashlib.blake2b(repr((states, sorted(options.items()), code)).encode(), digest_size=20).hexdigest()


def _is_graded(pair: Pair) -> bool:
    return pair.a.scores is not None and pair.b.scores is not None
