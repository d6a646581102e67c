"""The loader: every pair once an epoch, in an order set by seed and epoch, and a state that is a position."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from data_modules.decode_ahead import DecodeAhead
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


def epochs_of_ranks(count: int, world_size: int, batch_size: int) -> list[list[list[str]]]:
    """Ids by rank and batch."""
    ranks = [loader(count, rank=rank, world_size=world_size, batch_size=batch_size) for rank in range(world_size)]
    return [[batch.ids for batch in epoch_of(rank)] for rank in ranks]


def test_ranks_share_every_batch() -> None:
    """Eleven pairs, two ranks of three: a batch of six, and one of five."""
    first, second = epochs_of_ranks(11, 2, 3)
    assert [len(batch) for batch in first] == [3, 3]
    assert [len(batch) for batch in second] == [3, 2]


def test_less_than_a_pair_for_every_rank_joins_the_batch_before() -> None:
    """Nine pairs, four ranks of two: eight, and one that is left over."""
    assert [[len(batch) for batch in rank] for rank in epochs_of_ranks(9, 4, 2)] == [[3], [2], [2], [2]]


@pytest.mark.parametrize("count", range(4, 30))
def test_no_pair_is_left_out_and_no_rank_goes_without(count: int) -> None:
    for world_size in (1, 2, 4):
        ranks = epochs_of_ranks(count, world_size, 4 // world_size)
        names = [name for rank in ranks for batch in rank for name in batch]
        assert sorted(names, key=int) == [str(index) for index in range(count)]
        assert len({len(rank) for rank in ranks}) == 1
        assert all(batch for rank in ranks for batch in rank)
        if not 0 < count % 4 < world_size:
            alone = [set(batch) for batch in epochs_of_ranks(count, 1, 4)[0]]
            assert [set().union(*batch) for batch in zip(*ranks, strict=True)] == alone


def test_a_position_is_good_for_another_number_of_ranks() -> None:
    """Two ranks of three take a batch; then four ranks of two take what is left."""
    order = [name for batch in epoch_of(loader(20)) for name in batch.ids]
    ranks = [loader(20, rank=rank, world_size=2) for rank in range(2)]
    taken = [name for rank in ranks for name in next(iter(rank)).ids]
    assert ranks[0].state_dict() == ranks[1].state_dict()
    rest = [loader(20, rank=rank, world_size=4, batch_size=2) for rank in range(4)]
    for rank in rest:
        rank.load_state_dict(ranks[0].state_dict())
    left = [name for rank in rest for batch in rank for name in batch.ids]
    assert set(taken) == set(order[:6])
    assert sorted(taken + left) == sorted(order)


def test_where_fewer_pairs_are_left_than_ranks_some_come_once_more() -> None:
    """Eleven pairs, a process that takes ten; then four of them share the one that is left and three from before."""
    alone = loader(11, batch_size=5)
    order = [name for batch in epoch_of(loader(11, batch_size=5)) for name in batch.ids]
    list(islice(iter(alone), 2))
    ranks = [loader(11, rank=rank, world_size=4, batch_size=1) for rank in range(4)]
    for rank in ranks:
        rank.load_state_dict(alone.state_dict())
    assert [[batch.ids for batch in rank] for rank in ranks] == [[[name]] for name in order[-4:]]
    assert {rank.state_dict()["num_pairs"] for rank in ranks} == {11}


def test_a_position_in_other_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"other training pairs: expected 11 pairs .* got 10"):
        loader(10).load_state_dict(loader(11).state_dict())


def test_fewer_pairs_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="each of the 4 ranks, got 3"):
        loader(3, world_size=4)


def test_validation_leaves_no_pair_out_on_any_number_of_ranks() -> None:
    names = [
        name
        for rank in range(3)
        for batch in epoch_of(loader(10, shuffle=False, rank=rank, world_size=3))
        for name in batch.ids
    ]
    assert sorted(names, key=int) == [str(index) for index in range(10)]


def test_workers_change_nothing() -> None:
    alone, helped = loader(), loader(ahead=DecodeAhead(2, 2))
    assert [batch.ids for batch in epoch_of(alone)] == [batch.ids for batch in epoch_of(helped)]
