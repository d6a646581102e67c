"""Three ways to read a table of pairs in shards: rows a second, memory, what a restart in mid-epoch costs and loses.

    python -m benchmarks.speed.streaming --help

- `index`: what training does. Hugging Face `datasets` maps the rows into memory, and `PairLoader` takes them by index.
- `stream`: `datasets` again, as a stream of the Parquet files with a shuffle buffer and a state.
- `webdataset`: the same rows as tar shards, shuffled by shard and in a buffer, in torchdata's StatefulDataLoader; where
  these two are not installed (pip install webdataset torchdata), the way is left out.

Each takes an epoch in a process of its own, without workers. Another process takes half an epoch and saves its state,
and a third one goes on from it: rows that none of the two took are lost, rows that both took come again. Times are of
the CPU, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import itertools
import json
import multiprocessing
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from data_modules.loader import PairLoader
from data_modules.shards import read_tables
from descore.types import Pair

BUFFER = 10_000
"""Rows of a shuffle buffer; the default of neither library is larger."""

Found = tuple[list[str], dict[str, Any], dict[str, float]]
"""Ids in their order, the state after them, and what was measured."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        seconds = _in_process(_write, folder, options.rows, options.shards, options.thought)
        once = _in_process(_keep, folder)
        ways = [way for way in _WAYS if way != "webdataset" or _has_webdataset()]
        _import_libraries(ways)
        found = {way: _measure(way, folder, options.rows) for way in ways}
    size = f"{options.rows:,} rows in {options.shards} shards"
    print(f"{size}, written as Parquet and as tar in {seconds:.0f} s; kept as Arrow, once, in {once:.0f} s.")
    _report(found, options)


def _measure(way: str, folder: Path, num_rows: int) -> dict[str, float]:
    ids, _, measured = _in_process(_take, way, folder, num_rows, None)
    first, state, _ = _in_process(_take, way, folder, num_rows // 2, None)
    rest, _, again = _in_process(_take, way, folder, num_rows, state)
    both = Counter(first) + Counter(rest)
    return {
        "rows a second": len(ids) / measured["seconds"],
        "memory": measured["bytes"] / 2**20,
        "first": measured["first"],
        "first again": again["first"],
        "lost": num_rows - len(both),
        "twice": sum(count - 1 for count in both.values()),
        "neighbours": _neighbours(ids),
    }


def _neighbours(ids: Sequence[str]) -> float:
    """How many times as often as by chance a row comes from the shard of the row before it."""
    shards = np.array([int(name.partition("-")[0]) for name in ids])
    return float(np.mean(shards[1:] == shards[:-1]) * len(set(shards)))


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(function(*arguments)))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def _keep(folder: Path) -> float:
    """Read, check and keep the rows as Arrow, as training does at its first start; return the seconds it takes."""
    start = time.process_time()
    read_tables(str(folder / "tables"), folder=str(folder / "kept"))
    return time.process_time() - start


def _take(way: str, folder: Path, num_rows: int, state: dict[str, Any] | None) -> Found:
    """Take so many rows, or what is left of the epoch."""
    start, before = time.process_time(), _memory()
    loader: Any = _WAYS[way](folder)
    if state:
        loader.load_state_dict(state)
    ids, first, peak = [], 0.0, 0
    for count, row in enumerate(itertools.islice(loader, num_rows)):
        ids.append(row.pairs[0].id if isinstance(row, _Row) else row["id"])
        if not count:
            first = time.process_time() - start
        if not count % 1000:
            peak = max(peak, _memory())
    seconds = time.process_time() - start
    return ids, loader.state_dict(), {"seconds": seconds, "first": first, "bytes": peak - before}


def _memory() -> int:
    """Bytes of this process that no file stands behind."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


class _Row:
    """A batch of one pair, without what a model needs."""

    def __init__(self, _epoch: int, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs


def _index(folder: Path) -> PairLoader:
    pairs, _ = read_tables(str(folder / "tables"), folder=str(folder / "kept"))
    return PairLoader(pairs, _Row, batch_size=1, shuffle=True)  # type: ignore[arg-type]


def _stream(folder: Path) -> Any:
    import datasets

    files = sorted(str(path) for path in (folder / "tables").glob("*.parquet"))
    rows = datasets.load_dataset("parquet", data_files=files, streaming=True, split="train")
    return rows.shuffle(seed=0, buffer_size=BUFFER)


def _webdataset(folder: Path) -> Any:
    import webdataset
    from torchdata.stateful_dataloader import StatefulDataLoader

    files = sorted(str(path) for path in (folder / "tar").glob("*.tar"))
    rows = webdataset.WebDataset(files, shardshuffle=len(files), detshuffle=True, seed=0)
    rows = rows.compose(webdataset.detshuffle(BUFFER, seed=0)).map(lambda sample: json.loads(sample["json"]))
    return StatefulDataLoader(rows, batch_size=None)


_WAYS = {"index": _index, "stream": _stream, "webdataset": _webdataset}


def _import_libraries(ways: Sequence[str]) -> None:
    """Import what the ways need before they are forked: it takes the same of all of them, and is not measured."""
    for name in ("datasets", *(("webdataset", "torchdata.stateful_dataloader") if "webdataset" in ways else ())):
        importlib.import_module(name)


def _has_webdataset() -> bool:
    return all(importlib.util.find_spec(name) for name in ("webdataset", "torchdata"))


def _write(folder: Path, num_rows: int, num_shards: int, length: int) -> float:
    """Write the same rows as Parquet and as tar shards; return the seconds it took."""
    import pyarrow
    from pyarrow import parquet

    start = time.process_time()
    for name in ("tables", "tar"):
        (folder / name).mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / "tables" / name).touch()
    for shard in range(num_shards):
        rows = list(_rows(shard, range(shard, num_rows, num_shards), length))
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"tables/{shard:05}.parquet")
        with tarfile.open(folder / f"tar/{shard:05}.tar", "w") as archive:
            for row in rows:
                data = json.dumps(row).encode()
                member = tarfile.TarInfo(f"{row['id']}.json")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return time.process_time() - start


def _rows(shard: int, numbers: range, length: int) -> Iterator[dict[str, str]]:
    thought = "The kite climbs steadily. " * (length // 26)
    fixed = {"video_a": "a.mp4", "video_b": "b.mp4", "preference": "A", "cot_a": thought, "cot_b": thought}
    for number in numbers:
        yield {"id": f"{shard}-{number}", "prompt": f"Kite number {number} over a windy beach.", **fixed}


def _report(found: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    style = box.MARKDOWN if options.markdown else box.SIMPLE
    columns = ("rows a second", "MiB", "s to the first row", "after a restart", "lost", "twice", "neighbours")
    table = Table("way", *columns, box=style)
    for way, measured in found.items():
        cells = [f"{measured['rows a second']:,.0f}", f"{measured['memory']:.0f}"]
        cells += [f"{measured[name]:.1f}" for name in ("first", "first again")]
        cells += [f"{measured[name]:,.0f}" for name in ("lost", "twice")]
        table.add_row(way, *cells, f"{measured['neighbours']:.1f}")
    Console(width=120).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", type=int, default=100_000, help="rows of all shards")
    add("--shards", type=int, default=50, help="files that they lie in")
    add("--thought", type=int, default=400, help="characters of a thought, of which a row has two")
    add("--folder", help="where the shards are written; the system's temporary folder by default")
    add("--markdown", action="store_true", help="print the table in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
