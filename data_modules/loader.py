"""The loader of pairs: the order of an epoch is a function of (seed, epoch), the state is (epoch, batches handed out).

Lightning's own loaders replay or skip batches when a run resumes in the middle of an epoch; this one cannot, since
nothing about a batch depends on what came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from descore.seeding import generator
from descore.types import Pair, PairBatch

Collate = Callable[[int, Sequence[Pair]], PairBatch]
"""Builds the batch of some pairs in an epoch."""


class PairLoader:
    """Iterates over batches of pairs; one iteration is the rest of an epoch.

    Args:
        pairs: The pairs of the table.
        collate: Builds a batch; runs in the workers.
        batch_size: Pairs per batch and rank.
        shuffle: Whether the order changes with the epoch; validation keeps the table's.
        seed: Of the order.
        num_workers: Processes that decode ahead; 0 decodes in the training process.
        timeout: Seconds to wait for a worker before the run fails.
        rank: This process.
        world_size: Number of processes; each takes every `world_size`-th pair.
        pin_memory: Whether batches are pinned for a faster copy to a GPU.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        collate: Collate,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        num_workers: int = 0,
        timeout: float = 300.0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = _Batches(pairs, collate)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.timeout = timeout if num_workers else 0.0
        self.rank = rank
        self.world_size = world_size
        self.pin_memory = pin_memory
        self.epoch = 0
        self.num_handed_out = 0

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return len(self._batches(self.epoch))

    def __iter__(self) -> Iterator[PairBatch]:
        """Hand out what is left of the epoch; when nothing is, turn to the next one. Validation always starts anew."""
        # Not at the end: Lightning stops after len(self) batches and never lets the loop below run out.
        if self.num_handed_out >= len(self):
            self.epoch, self.num_handed_out = self.epoch + 1, 0
        if not self.shuffle:
            self.num_handed_out = 0
        rest = self._batches(self.epoch)[self.num_handed_out :]
        loader = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=[(self.epoch, batch) for batch in rest],
            num_workers=self.num_workers,
            timeout=self.timeout,
            pin_memory=self.pin_memory,
        )
        for batch in loader:
            self.num_handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position, for a checkpoint."""
        return {"epoch": self.epoch, "num_handed_out": self.num_handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position."""
        self.epoch, self.num_handed_out = state["epoch"], state["num_handed_out"]

    def _batches(self, epoch: int) -> list[list[int]]:
        count = len(self.dataset.pairs)
        order = list(range(count))
        if self.shuffle:
            order = torch.randperm(count, generator=generator(self.seed, "order", epoch)).tolist()
            # Ranks take equally many steps; fewer pairs than ranks are left out, others in every epoch.
            order = order[: count - count % self.world_size]
        mine = order[self.rank :: self.world_size]
        return [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]


class _Batches(Dataset[PairBatch]):
    """Batches by (epoch, indices of pairs)."""

    def __init__(self, pairs: Sequence[Pair], collate: Collate) -> None:
        self.pairs = pairs
        self.collate = collate

    def __getitem__(self, key: tuple[int, list[int]]) -> PairBatch:
        epoch, indices = key
        return self.collate(epoch, [self.pairs[index] for index in indices])
