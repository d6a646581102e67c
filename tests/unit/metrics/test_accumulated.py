"""Accuracy over batches, ranks and merged metrics is that over all pairs at once."""

import itertools

import pytest
import torch
import torch.multiprocessing
from torch import distributed

from descore.metrics import preference_accuracy
from descore.metrics.accumulated import PreferenceAccuracy


def random_pairs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    margin = torch.randint(-3, 4, (size,), generator=generator) / 3
    return margin, torch.randint(-1, 2, (size,), generator=generator)


def filled(margin: torch.Tensor, preference: torch.Tensor, sizes: list[int]) -> PreferenceAccuracy:
    metric = PreferenceAccuracy()
    for batch in zip(margin.split(sizes), preference.split(sizes), strict=True):
        metric.update(*batch)
    return metric


def test_metric_over_uneven_batches():
    """A mean of batch accuracies would give the batch of one the weight of the batch of fifty."""
    margin, preference = random_pairs(58)
    metric, expected = filled(margin, preference, [1, 50, 7]), preference_accuracy(margin, preference)
    assert metric.result() == expected
    assert metric.compute().dtype == torch.float32
    assert metric.compute().item() == pytest.approx(expected.without_ties)


def test_metric_over_two_ranks():
    margin, preference = random_pairs(40)
    theirs = itertools.cycle([margin[9:], preference[9:].float()])
    ours, expected = filled(margin[:9], preference[:9], [4, 5]), preference_accuracy(margin, preference)
    ours.distributed_available_fn = lambda: True
    ours.dist_sync_fn = lambda state, group: [state, next(theirs)]
    for _ in range(2):
        assert ours.result() == expected
        assert ours.compute().item() == pytest.approx(expected.without_ties)


def test_metrics_merge():
    margin, preference = random_pairs(40)
    ours, theirs = filled(margin[:9], preference[:9], [4, 5]), filled(margin[9:], preference[9:], [31])
    ours.merge_state(theirs)
    assert ours.result() == preference_accuracy(margin, preference)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metric_starts_and_restarts_empty():
    metric = PreferenceAccuracy()
    assert metric.compute().isnan()
    metric.update(torch.ones(3), torch.ones(3))
    assert metric.compute() == 1
    metric.reset()
    assert metric.result().num_pairs == 0


def _rank(rank: int, store: str, sizes: list[list[int]]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(sizes))
    margin, preference = random_pairs(sum(map(sum, sizes)))
    start = sum(map(sum, sizes[:rank]))
    own = slice(start, start + sum(sizes[rank]))
    metric = filled(margin[own], preference[own], sizes[rank]) if sizes[rank] else PreferenceAccuracy()
    expected = preference_accuracy(margin, preference)
    for _ in range(2):
        assert metric.result() == expected
        assert metric.compute().item() == pytest.approx(expected.without_ties)
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[[4, 5], [31]], [[], [40]]])
def test_metric_over_a_process_group(tmp_path, sizes):
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path / "store"), sizes), nprocs=2)
