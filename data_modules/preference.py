"""Preference pairs from tables: the DataModule of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from data_modules.bad_videos import BadVideos, OnBadVideo
from data_modules.loader import PairLoader
from data_modules.pairs import read_pairs
from descore.types import Pair, PairBatch


class PreferencePairDataModule(LightningDataModule):
    """Streams the pairs of tables, decoded in workers. The LightningModule says how pairs become a batch.

    Args:
        train: Table of the training pairs.
        val: Tables of the validation pairs by name; the first one gives the headline.
        preset: Layout of the tables; see docs/data.md.
        dimensions: The labels to train on; one reward each.
        on_bad_row: Whether a row that cannot be used stops the run or is counted and left out.
        on_bad_video: Whether a video that cannot be read stops the run, takes its pair out of the batch (skip), or has
            another pair put in its place (replace). Each is told once, and listed in the run's bad_videos.jsonl.
        bad_video_budget: Share of the videos read that may be bad before the run fails.
        batch_size: Pairs per batch and device.
        val_batch_size: Pairs per validation batch and device.
        max_val_pairs: Use only the first pairs of each validation table; 0 uses all.
        num_workers: Processes that decode ahead.
        timeout: Seconds to wait for a worker before the run fails.
        seed: Of the order of an epoch.
    """

    def __init__(
        self,
        train: str,
        val: dict[str, str] | None = None,
        preset: str = "descore",
        dimensions: Sequence[str] = ("overall",),
        on_bad_row: Literal["error", "skip"] = "error",
        on_bad_video: OnBadVideo = "skip",
        bad_video_budget: float = 0.01,
        batch_size: int = 4,
        val_batch_size: int = 16,
        max_val_pairs: int = 0,
        num_workers: int = 2,
        timeout: float = 300.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val or {}
        self.preset = preset
        self.dimensions = tuple(dimensions)
        self.on_bad_row = on_bad_row
        self.on_bad_video: OnBadVideo = on_bad_video
        self.bad_video_budget = bad_video_budget
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.max_val_pairs = max_val_pairs
        self.num_workers = num_workers
        self.timeout = timeout
        self.seed = seed

    @property
    def val_names(self) -> tuple[str, ...]:
        """Names of the validation tables, in the order of the loaders."""
        return tuple(self.val)

    def setup(self, stage: str) -> None:
        """Read the tables."""
        if stage == "fit":
            self.train_pairs = self._read(self.train)
        limit = self.max_val_pairs or None
        self.val_pairs = {name: self._read(table)[:limit] for name, table in self.val.items()}
        self.bad_videos = self._watch(len(self.train_pairs) if stage == "fit" else 0)

    def teardown(self, stage: str) -> None:
        """Say how many videos could not be read."""
        if found := self.bad_videos.reasons:
            rank_zero_info(f"{len(found)} videos could not be read; they are listed in {self.bad_videos.file}")

    def train_dataloader(self) -> PairLoader:
        """Shuffled by (seed, epoch), split over ranks by pair."""
        return self._loader(self.train_pairs, self.batch_size, training=True)

    def val_dataloader(self) -> list[PairLoader]:
        """One loader per table, in its order."""
        return [self._loader(pairs, self.val_batch_size, training=False) for pairs in self.val_pairs.values()]

    def transfer_batch_to_device(self, batch: PairBatch, device: torch.device, dataloader_idx: int) -> PairBatch:
        """Move a batch; Lightning cannot move a frozen dataclass by itself."""
        return batch.to(device, non_blocking=True)

    def _read(self, table: str) -> tuple[Pair, ...]:
        found = read_pairs(Path(table), preset=self.preset, dimensions=self.dimensions, on_bad_row=self.on_bad_row)
        rejected = "".join(f"; {count} left out: {reason}" for reason, count in found.num_rejected().items())
        rank_zero_info(f"{table}: {len(found.pairs)} pairs{rejected}")
        return found.pairs

    def _watch(self, num_train: int) -> BadVideos:
        """Keep account of the bad videos of this process in the folder of the run."""
        assert self.trainer is not None
        num_pairs = num_train + sum(len(pairs) for pairs in self.val_pairs.values())
        folder, rank = Path(self.trainer.log_dir or self.trainer.default_root_dir), self.trainer.global_rank
        file = folder / f"bad_videos{f'-{rank}' if rank else ''}.jsonl"
        return BadVideos(self.bad_video_budget, 2 * num_pairs // self.trainer.world_size, file)

    def _loader(self, pairs: Sequence[Pair], batch_size: int, *, training: bool) -> PairLoader:
        assert self.trainer is not None
        system: Any = self.trainer.lightning_module
        return PairLoader(
            pairs,
            system.collator(training=training),
            batch_size=batch_size,
            shuffle=training,
            seed=self.seed,
            num_workers=self.num_workers,
            timeout=self.timeout,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            on_bad_video=self.on_bad_video,
            watch=self.bad_videos.count,
        )
