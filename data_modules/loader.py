"""The loader of pairs. The order of an epoch is a function of (seed, epoch); the state is (epoch, pairs handed out).

Lightning's own handling of loaders repeats or skips batches when a run resumes in the middle of an epoch. This loader
resumes exactly, since a batch depends on nothing that came before it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from data_modules.bad_videos import BadVideo, Collate, OnBadVideo, TolerantReader
from data_modules.decode_ahead import DecodeAhead
from data_modules.shards import ids_of
from descore.seeding import generator
from descore.types import Pair, PairBatch

Watch = Callable[[int, Sequence[BadVideo]], None]
"""Function called for every batch with the number of videos read for it, and the bad ones among them."""


class PairLoader:
    """Iterates over batches of pairs; one iteration gives the rest of an epoch.

    Training batches of all ranks together are the batches that a single rank would take with `world_size` times the
    batch size; each rank gets every `world_size`-th pair of them. The pairs left over at the end of an epoch form a
    smaller batch, or join the previous one if they are fewer than the ranks: no pair is left out, and no rank goes
    without. If a run resumes on more ranks than there are pairs left in the epoch, some pairs are used a second time.

    Args:
        pairs: Pairs of the table.
        collate: Collator that reads pairs and builds batches; it runs in the workers.
        batch_size: Number of pairs per batch and rank.
        shuffle: Whether the order changes with the epoch, as in training; validation keeps the order of the table.
        seed: Seed of the order and of replacements.
        ahead: Workers that decode ahead, and how far; without workers the training process decodes.
        timeout: Seconds to wait for a batch of a worker before the run fails.
        rank: Rank of this process.
        world_size: Number of ranks.
        pin_memory: Whether to pin batches in memory, for a faster copy to a GPU.
        on_bad_video: What to do about a video that cannot be read: "error" stops the run, "skip" leaves its pair out,
            "replace" puts another pair in its place. A training batch that would be empty always gets another pair; an
            empty validation batch is left out.
        watch: Function called for every batch with the number of videos read, and the bad ones among them.

    Raises:
        ValueError: If there are fewer training pairs than ranks.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        collate: Collate,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        ahead: DecodeAhead = DecodeAhead(0, 0),
        timeout: float = 300.0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        on_bad_video: OnBadVideo = "error",
        watch: Watch = lambda num_videos, bad: None,
    ) -> None:
        replaces = on_bad_video == "replace" and shuffle
        tolerant = TolerantReader(pairs, collate, replaces, may_be_empty=not shuffle, seed=seed)
        self.dataset = _Batches(pairs, collate, None if on_bad_video == "error" else tolerant)
        self.watch = watch
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.ahead = ahead
        self.timeout = timeout if ahead.num_workers else 0.0
        self.rank = rank
        self.world_size = world_size
        self.pin_memory = pin_memory
        self.epoch = 0
        self.num_pairs = 0
        self._identity: dict[str, Any] = {}
        if shuffle and len(pairs) < world_size:
            raise ValueError(
                f"expected at least one training pair for each of the {world_size} ranks, got {len(pairs)}; train on "
                "fewer devices"
            )

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch on this rank; in training it is the same on all ranks."""
        if self.shuffle:
            return len(self._cut(range(len(self.dataset.pairs))))
        return len(self._own(range(len(self.dataset.pairs))))

    def __iter__(self) -> Iterator[PairBatch]:
        """Yield the batches left in the epoch, or those of the next if none is left; validation always yields all."""
        # The epoch is advanced here, since Lightning stops after len(self) batches and never exhausts the loop below.
        if self.num_pairs >= len(self.dataset.pairs):
            self.epoch, self.num_pairs = self.epoch + 1, 0
        if self.shuffle:
            self.num_pairs = min(self.num_pairs, len(self.dataset.pairs) - self.world_size)
            batches = self._cut(self._order(self.epoch)[self.num_pairs :])
            mine = [batch[self.rank :: self.world_size] for batch in batches]
        else:
            self.num_pairs = 0
            mine = batches = self._own(range(len(self.dataset.pairs)))
        loader = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=[(self.epoch, batch) for batch in mine],
            num_workers=self.ahead.num_workers,
            prefetch_factor=self.ahead.prefetch_factor if self.ahead.num_workers else None,
            timeout=self.timeout,
            pin_memory=self.pin_memory,
            worker_init_fn=_leave_signals_to_training,
        )
        for whole, own, (batch, bad) in zip(batches, mine, loader, strict=True):
            self.num_pairs += len(whole)
            self.watch(2 * len(own), bad)
            if batch is not None:
                yield batch

    def batch_sizes(self) -> list[int]:
        """Return the number of pairs of each training batch of an epoch, on the rank that has most of them."""
        batches = self._cut(range(len(self.dataset.pairs)))
        return [-(-len(batch) // self.world_size) for batch in batches]

    def state_dict(self) -> dict[str, Any]:
        """Return the position for a checkpoint; it is the same on all ranks, and valid for any number of them."""
        return {"epoch": self.epoch, "num_pairs": self.num_pairs, "table": self._table()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position of a checkpoint.

        Raises:
            ValueError: If the checkpoint was made with other training pairs.
        """
        if state["table"] != (table := self._table()):
            raise ValueError(
                f"the checkpoint was made on other training pairs: expected {state['table']['num_pairs']} pairs whose "
                f"ids hash to {state['table']['ids']}, got {table['num_pairs']} and {table['ids']}; resume with the "
                "table of that run, or start a new run from its export"
            )
        self.epoch, self.num_pairs = state["epoch"], state["num_pairs"]

    def _table(self) -> dict[str, Any]:
        """Return a fingerprint of the pairs; it is computed once, since there may be millions."""
        if not self._identity:
            digest = hashlib.blake2b("\n".join(ids_of(self.dataset.pairs)).encode(), digest_size=8)
            self._identity = {"num_pairs": len(self.dataset.pairs), "ids": digest.hexdigest()}
        return self._identity

    def _order(self, epoch: int) -> list[int]:
        order = torch.randperm(len(self.dataset.pairs), generator=generator(self.seed, "order", epoch))
        return cast("list[int]", order.tolist())

    def _cut(self, order: Sequence[int]) -> list[list[int]]:
        """Divide an order into batches of all ranks together."""
        size = self.batch_size * self.world_size
        batches = [list(order[start : start + size]) for start in range(0, len(order), size)]
        if len(batches) > 1 and len(batches[-1]) < self.world_size:
            batches[-2:] = [batches[-2] + batches[-1]]
        return batches

    def _own(self, order: Sequence[int]) -> list[list[int]]:
        """Divide this rank's part of the validation pairs into batches; ranks may have different numbers of batches."""
        mine = order[self.rank :: self.world_size]
        return [list(mine[start : start + self.batch_size]) for start in range(0, len(mine), self.batch_size)]


def _leave_signals_to_training(_worker: int) -> None:
    """Ignore signals that ask a job to stop: the training process finishes its step first, and needs its workers."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_training, daemon=True).start()


def _end_with_training() -> None:
    """End on a SIGTERM from the training process, which sends it to its workers when it ends; ignore any other."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class _Batches(Dataset[tuple[PairBatch | None, tuple[BadVideo, ...]]]):
    """Data set of batches by (epoch, indices of pairs), each with the videos that could not be read for it."""

    def __init__(self, pairs: Sequence[Pair], collate: Collate, tolerant: TolerantReader | None) -> None:
        self.pairs = pairs
        self.collate = collate
        self.tolerant = tolerant

    def __getitem__(self, key: tuple[int, list[int]]) -> tuple[PairBatch | None, tuple[BadVideo, ...]]:
        epoch, indices = key
        if self.tolerant is not None:
            return self.tolerant(epoch, indices)
        return self.collate(epoch, [self.pairs[index] for index in indices]), ()
