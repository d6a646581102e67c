"""The loader: every pair once an epoch, in an order set by seed and epoch, and a state that is a position."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from data_modules.loader import PairLoader
from descore.types import Pair, Side


def pairs(count: int) -> list[Pair]:
    return [Pair(str(index), "", Side("a"), Side("b"), (1.0,)) for index in range(count)]


def collate(epoch: int, chosen: Sequence[Pair]) -> Any:
    return SimpleNamespace(epoch=epoch, ids=[pair.id for pair in chosen])


def loader(count: int = 10, **options: Any) -> PairLoader:
    return PairLoader(pairs(count), collate, **({"batch_size": 3, "shuffle": True, "seed": 1} | options))


def epoch_of(source: PairLoader) -> list[Any]:
    """Take an epoch as Lightning does: `len(source)` batches, and never the end of the iterator."""
    return list(islice(iter(source), len(source)))


def test_every_epoch_holds_every_pair_once_in_another_order() -> None:
    source = loader()
    epochs = [epoch_of(source) for _ in range(3)]
    orders = [[name for batch in batches for name in batch.ids] for batches in epochs]
    assert [batch.epoch for batches in epochs for batch in batches] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(sorted(order, key=int) == [str(index) for index in range(10)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == [name for batch in epoch_of(loader()) for name in batch.ids]


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 6, 8])
def test_a_loaded_state_goes_on_where_it_was_saved(taken: int) -> None:
    whole = loader()
    everything = [batch.ids for _ in range(3) for batch in epoch_of(whole)]
    first = loader()
    for _ in range(taken // 4):
        epoch_of(first)
    list(islice(iter(first), taken % 4))
    second = loader()
    second.load_state_dict(first.state_dict())
    rest = [batch.ids for batch in second]
    while len(rest) < 12 - taken:
        rest += [batch.ids for batch in epoch_of(second)]
    assert everything[taken:] == rest[: 12 - taken]


def test_validation_starts_at_the_first_pair_every_time() -> None:
    source = loader(shuffle=False)
    assert next(iter(source)).ids == ["0", "1", "2"]
    for _ in range(3):
        assert [name for batch in epoch_of(source) for name in batch.ids] == [str(index) for index in range(10)]


def test_ranks_share_the_pairs_in_equally_many_batches() -> None:
    ranks = [loader(11, rank=rank, world_size=2) for rank in range(2)]
    batches = [epoch_of(rank) for rank in ranks]
    names = [name for rank in batches for batch in rank for name in batch.ids]
    assert [len(batch.ids) for batch in batches[0]] == [len(batch.ids) for batch in batches[1]] == [3, 2]
    assert len(names) == len(set(names)) == 10


def test_validation_leaves_no_pair_out_on_any_number_of_ranks() -> None:
    names = [
        name
        for rank in range(3)
        for batch in epoch_of(loader(10, shuffle=False, rank=rank, world_size=3))
        for name in batch.ids
    ]
    assert sorted(names, key=int) == [str(index) for index in range(10)]


def test_workers_change_nothing() -> None:
    alone, helped = loader(), loader(num_workers=2)
    assert [batch.ids for batch in epoch_of(alone)] == [batch.ids for batch in epoch_of(helped)]
