"""Tables in shards: the same pairs as in one file, checked before the start, on disk, under any name fsspec knows."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from data_modules import shards
from data_modules.loader import PairLoader
from data_modules.shards import StoredPairs, find_shards, read_tables, ungraded
from descore.tables.pairs import read_pairs

GRADES = {"subject": 2, "dynamics": 1, "camera": "N/A", "environment": 0, "style": 2}


def row(number: int, **changes: object) -> dict[str, object]:
    cells = {"id": f"p{number}", "prompt": f"a cat {number}", "video_a": "a.mp4", "video_b": "b.mp4"}
    return cells | {"preference": ["A", "B", "tie"][number % 3], "scores_a": GRADES, "scores_b": GRADES} | changes


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write a table; in Parquet the grades are JSON text, since "N/A" is no number."""
    path.parent.mkdir(exist_ok=True, parents=True)
    for name in ("a.mp4", "b.mp4"):
        (path.parent / name).touch()
    if path.suffix == ".parquet":
        cells = [{name: json.dumps(v) if isinstance(v, dict) else v for name, v in r.items()} for r in rows]
        parquet.write_table(pyarrow.Table.from_pylist(cells), path)
    else:
        path.write_text("".join(json.dumps(cells) + "\n" for cells in rows))
    return path


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Ten pairs in three shards, of which one is JSONL, beside a file that is no table."""
    folder = tmp_path / "train"
    write(folder / "000.parquet", [row(number) for number in range(4)])
    write(folder / "001.parquet", [row(number) for number in range(4, 7)])
    write(folder / "002.jsonl", [row(number) for number in range(7, 10)])
    (folder / "readme.txt").touch()
    return folder


@pytest.fixture
def read(tmp_path: Path):
    return lambda location, **options: read_tables(str(location), folder=str(tmp_path / "kept"), **options)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    yield storage
    storage.store.clear()


def test_shards_give_the_pairs_that_one_table_gives(train, read, tmp_path):
    whole = read_pairs(write(train / "whole.jsonl", [row(number) for number in range(10)])).pairs
    (train / "whole.jsonl").rename(tmp_path / "whole.jsonl")
    for location in (train, train / "*.*", f"file://{train}"):
        found, num_rejected = read(location)
        assert isinstance(found, StoredPairs)
        assert num_rejected == {}
        assert [(pair.id, pair.prompt, pair.preference, pair.a.scores) for pair in found] == [
            (pair.id, pair.prompt, pair.preference, pair.a.scores) for pair in whole
        ]
        assert [*found.ids()] == [pair.id for pair in whole]
    assert tuple(read(train)[0]) == whole
    assert read(train / "00*.parquet")[0][-1] == whole[6]
    assert read(train)[0][2:4] == whole[2:4]


def test_a_position_in_one_table_is_one_in_its_shards(train, read, tmp_path):
    one = PairLoader(
        read_pairs(write(tmp_path / "t.jsonl", [row(n) for n in range(10)])).pairs, None, batch_size=2, shuffle=True
    )
    other = PairLoader(read(train)[0], None, batch_size=2, shuffle=True)
    assert one.state_dict() == other.state_dict()


def test_one_local_file_stays_in_memory(train, read):
    found, _ = read(train / "000.parquet")
    assert isinstance(found, tuple)


def test_shards_are_read_once_until_they_change(train, read, monkeypatch):
    count = []
    monkeypatch.setattr(
        shards, "read_pairs", lambda shard, **options: count.append(shard) or read_pairs(shard, **options)
    )
    for _ in range(2):
        assert len(read(train)[0]) == 10
    assert len(count) == 3
    write(train / "002.jsonl", [row(7), row(8)])
    assert len(read(train)[0]) == 9
    assert len(count) == 6
    read(train, on_bad_row="skip")
    assert len(count) == 9


def test_pairs_on_disk_travel_to_another_process_by_name(train, read):
    found, _ = read(train)
    assert len(pickle.dumps(found)) < 10_000
    assert tuple(pickle.loads(pickle.dumps(found))) == tuple(found)
    with pytest.raises(IndexError):
        found[10]


def test_a_bad_row_stops_or_is_counted_whichever_shard_it_is_in(train, read):
    write(train / "001.parquet", [row(4), row(5, preference="C"), row(6, video_b="gone.mp4")])
    with pytest.raises(
        ValueError, match=r"001\.parquet, data row 2, column 'preference': expected A, B, tie.* got 'C'"
    ):
        read(train)
    found, num_rejected = read(train, on_bad_row="skip")
    assert len(found) == 8
    assert num_rejected == {"expected A, B, tie, invalid": 1, "video not found": 1}


def test_an_id_that_comes_twice_stops_or_is_counted(train, read):
    write(train / "002.jsonl", [row(7), row(0)])
    with pytest.raises(ValueError, match=r"002\.jsonl: expected ids that no earlier shard has, got 'p0'"):
        read(train)
    found, num_rejected = read(train, on_bad_row="skip")
    assert (len(found), sum(num_rejected.values())) == (8, 1)


def test_rows_without_an_id_are_numbered_by_shard(train, read):
    for name in ("000", "001"):
        write(train / f"{name}.parquet", [{k: v for k, v in row(number).items() if k != "id"} for number in range(2)])
    assert [*read(train / "*.parquet")[0].ids()] == [f"{name}.parquet:{n}" for name in ("000", "001") for n in (1, 2)]


def test_ungraded_pairs_are_counted_without_reading_them_again(train, read):
    assert ungraded(read(train)[0]) == (0, [])
    write(train / "002.jsonl", [row(number, scores_b=None) for number in range(7, 12)])
    expected = (5, ["p7", "p8", "p9"])
    assert ungraded(read(train)[0]) == expected
    assert ungraded(read_pairs(train / "002.jsonl").pairs) == expected


def test_shards_on_remote_storage(train, read, memory):
    for path in train.glob("00*"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    found, _ = read("memory://bucket")
    assert len(found) == 10
    assert found[0].a.video == "memory:///bucket/a.mp4"
    assert len(read("memory://bucket/*.parquet")[0]) == 7
    assert read("memory://bucket/002.jsonl")[0][0].id == "p7"


@pytest.mark.parametrize("location", ["nothing", "nothing/*.parquet", "memory://nothing"])
def test_nothing_there_is_said(tmp_path, memory, location):
    with pytest.raises(FileNotFoundError, match=r"nothing.*: expected tables that end in \.csv, \.tsv, \.jsonl"):
        find_shards(location if "://" in location else str(tmp_path / location))
