"""Tables in shards: read and checked once, kept on disk as Arrow, and mapped into memory by every process.

Hugging Face `datasets` writes and maps the Arrow file. Pairs are accessed by index, so order and position within an
epoch work as for a table in memory.
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

_DUPLICATE = "an id that an earlier shard has"


def read_tables(location: str, *, folder: str | None = None, **options: Any) -> tuple[Sequence[Pair], dict[str, int]]:
    """Read the pairs of one or many tables.

    A single local file is held in memory. All other tables are read shard by shard and kept on disk, and are read again
    only if a shard or the code that reads it has changed.

    Args:
        location: Local table, or tables in a folder, under a pattern such as `train/*.parquet`, or at a URL.
        folder: Folder for pairs that are not held in memory; the cache of `datasets` if not given.
        options: Further arguments of `read_pairs`.

    Returns:
        The pairs, and the number of rows that were left out, by reason.

    Raises:
        FileNotFoundError: If there is no table.
        ImportError: If `datasets`, or a package that the storage needs, is not installed.
        ValueError: If a row cannot be used, or an id is not unique.
    """
    if os.path.isfile(location):
        found = read_pairs(location, **options)
        return found.pairs, found.num_rejected()
    shards = find_shards(location)
    stored = StoredPairs(_store(shards, folder, options))
    return stored, stored.num_rejected


def find_shards(location: str) -> list[str]:
    """Return the tables in a folder, under a pattern or at a URL, sorted by name.

    Args:
        location: Folder, pattern such as `train/*.parquet`, or URL.

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
    """Pairs on disk, each read when it is accessed.

    Args:
        dataset: Arrow data set with one row per pair, and a last row with counts over all of them.
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
        """Read the pair at an index, or a tuple of pairs for a slice."""
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[operator.index(index)]
        return Pair.from_dict(json.loads(self._dataset[place]["pair"]))

    def ids(self) -> Iterator[str]:
        """Yield the ids of all pairs without reading the pairs."""
        for start in range(0, len(self), 10_000):
            yield from self._dataset[start : min(start + 10_000, len(self))]["id"]


def ids_of(found: Sequence[Pair]) -> Iterable[str]:
    """Return the ids of pairs in memory or on disk."""
    return found.ids() if isinstance(found, StoredPairs) else (pair.id for pair in found)


def ungraded(found: Sequence[Pair]) -> tuple[int, list[str]]:
    """Return the number of pairs without annotated scores of a video, and the ids of up to three."""
    if isinstance(found, StoredPairs):
        return found.num_ungraded, found.some_ungraded
    names = [pair.id for pair in found if not _is_graded(pair)]
    return len(names), names[:3]


def _store(shards: Sequence[str], folder: str | None, options: dict[str, Any]) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{shards[0]}: tables in shards need the package datasets: pip install 'descore[shards]'"
        ) from error
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
    """Read and check shard after shard, and yield a row per pair and a last row with counts over all of them."""
    seen: set[str] = set()
    rejected: Counter[str] = Counter()
    lacking: list[str] = []
    for shard in shards:
        table = read_pairs(shard, row_names=f"{PurePath(shard).name}:", **options)
        rejected.update(table.num_rejected())
        for pair in table.pairs:
            if pair.id in seen:
                if options.get("on_bad_row", "error") == "error":
                    raise ValueError(
                        f"{shard}: expected ids that no earlier shard has, got {pair.id!r}; give this pair another id"
                    )
                rejected[_DUPLICATE] += 1
                continue
            seen.add(pair.id)
            if not _is_graded(pair):
                lacking.append(pair.id)
            yield {"id": pair.id, "pair": json.dumps(asdict(pair))}
    summary = {"rejected": rejected, "num_ungraded": len(lacking), "some_ungraded": lacking[:3]}
    yield {"id": "", "pair": json.dumps(summary)}


def _fingerprint(shards: Sequence[str], options: dict[str, Any]) -> str:
    """Hash the state of the shards, the options of reading them, and the code that reads them."""
    storage = fsspec.filesystem(get_protocol(shards[0]))
    states = [(shard, storage.ukey(shard)) for shard in shards]
    code = [path.read_bytes() for path in (*sorted(Path(tables.__file__).parent.glob("*.py")), Path(answer.__file__))]
    return hashlib.blake2b(repr((states, sorted(options.items()), code)).encode(), digest_size=20).hexdigest()


def _is_graded(pair: Pair) -> bool:
    return pair.a.scores is not None and pair.b.scores is not None
