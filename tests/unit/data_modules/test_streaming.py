"""Shards, tar files and remote videos through the DataModule: the same tensors on any way, and from any position."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from data_modules.decode_ahead import DecodeAhead
from data_modules.loader import PairLoader
from data_modules.options import Cache, Decoding
from data_modules.preference import PreferencePairDataModule
from descore.inputs.collate import PairCollator
from descore.types import PairBatch

NUM_PAIRS = 22


@pytest.fixture(scope="module")
def train(clips, tmp_path_factory) -> Iterator[str]:
    """Twenty-two pairs in three shards: of each, a video lies in a tar file, and one in remote storage."""
    folder = tmp_path_factory.mktemp("train")
    storage = fsspec.filesystem("memory")
    with tarfile.open(folder / "clips.tar", "w") as archive:
        for clip in clips:
            archive.add(clip, Path(clip).name)
            storage.put_file(clip, f"/clips/{Path(clip).name}")
    rows = [
        {
            "id": str(number),
            "prompt": "a bar moves right" * (1 + number % 3),
            "video_a": f"tar://{number % 4}.mp4::clips.tar",
            "video_b": f"memory://clips/{(number + 1) % 4}.mp4",
            "preference": "AB"[number % 2],
            "mos_a": 3.5,
            "mos_b": number / 10,
        }
        for number in range(NUM_PAIRS)
    ]
    for shard, start in enumerate((0, 9, 15)):
        part = rows[start : (9, 15, NUM_PAIRS)[shard]]
        parquet.write_table(pyarrow.Table.from_pylist(part), folder / f"{shard}.parquet")
    yield str(folder)
    storage.rm("/clips", recursive=True)


@pytest.fixture
def load(qwen3, train, tmp_path):
    """Make a loader of the shards, as training does."""

    def collator(*, training, read):
        return PairCollator(qwen3.processor, mask_prob=0.5, read=read)

    def make(rank: int = 0, world_size: int = 1, *, cache: bool = True, **options) -> PairLoader:
        folder = str(tmp_path / ("cache" if cache else "tables"))
        defaults = {"batch_size": 3, "num_workers": 0, "seed": 1, "cache": Cache(folder)}
        data = PreferencePairDataModule(train, **defaults | options)
        data.trainer = SimpleNamespace(
            lightning_module=SimpleNamespace(model=qwen3, collator=collator),
            global_rank=rank,
            world_size=world_size,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            log_dir=str(tmp_path / "run"),
        )
        data.setup("fit")
        data.cache = Cache(folder if cache else None)
        return data.train_dataloader()

    return make


def tensors(batch: PairBatch) -> list[Tensor]:
    parts = (batch.branches, batch)
    return [
        value for part in parts for value in (getattr(part, name) for name in part.__slots__) if torch.is_tensor(value)
    ]


def same(one: Sequence[PairBatch], other: Sequence[PairBatch]) -> bool:
    return all(
        len(tensors(a)) == 11 and a.pairs == b.pairs and all(map(torch.equal, tensors(a), tensors(b)))
        for a, b in zip(one, other, strict=True)
    )


def take(loader: PairLoader, count: int) -> list[PairBatch]:
    """Take batches as Lightning does: epoch after epoch, each `len(loader)` batches at most."""
    batches: list[PairBatch] = []
    while len(batches) < count:
        batches += islice(iter(loader), count - len(batches))
    return batches


def test_cache_and_workers_change_no_bit(load):
    plain = take(load(cache=False), 8)
    assert not same(plain[:4], plain[4:]), "batches can be told apart"
    assert same(take(load(), 8), plain), "the cache fills"
    assert same(take(load(), 8), plain), "the cache is full"
    assert same(take(load(num_workers=2), 8), plain)
    assert same(take(load(num_workers=2, cache=False), 8), plain)


@pytest.mark.parametrize(("taken", "num_workers"), [(1, 0), (5, 2), (8, 0), (11, 2)])
def test_the_next_eight_batches_after_a_restart_are_the_same_to_the_bit(load, taken, num_workers):
    """An epoch has eight batches, so that the next eight run into another one."""
    first = load(num_workers=num_workers)
    whole = take(load(), taken + 8)
    batches = iter(first)
    for _ in range(taken // 8):
        assert len(list(batches)) == 8
        batches = iter(first)
    list(islice(batches, taken % 8))  # workers have decoded further than this, which is not handed out
    second = load(num_workers=num_workers)
    second.load_state_dict(first.state_dict())
    assert same(take(second, 8), whole[taken:])


@pytest.mark.parametrize("then", [1, 3, 4])
def test_two_ranks_stop_and_others_go_on_without_overlap_or_loss(load, then):
    before = [load(rank, 2, num_workers=1) for rank in range(2)]
    taken = [pair.id for loader in before for batch in islice(iter(loader), 2) for pair in batch.pairs]
    after = [load(rank, then) for rank in range(then)]
    for loader in after:
        loader.load_state_dict(before[0].state_dict())
    left = [pair.id for loader in after for batch in loader for pair in batch.pairs]
    assert len(taken) == 12
    assert sorted(taken + left, key=int) == [str(number) for number in range(NUM_PAIRS)]


def test_the_bound_on_memory_reaches_the_workers(load):
    assert load(num_workers=3).ahead == DecodeAhead(3, 2)
    three_batches = 3 * 3 * 2 * 6 * 3 * 1024 / 2**30
    tight = load(num_workers=3, decoding=Decoding(ahead_gb=1.01 * three_batches))
    assert tight.ahead == DecodeAhead(1, 1)
    assert len(take(tight, 8)) == 8
