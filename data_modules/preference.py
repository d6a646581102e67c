"""The DataModule of both stages: preference pairs from tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from data_modules.bad_videos import BadVideos
from data_modules.decode_ahead import most_bytes, plan
from data_modules.loader import PairLoader
from data_modules.options import Cache, Decoding, OnBad
from data_modules.remote import RemoteVideos, video_state
from data_modules.shards import read_tables, ungraded
from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptError
from descore.tables.locations import is_url
from descore.types import Frames, Pair, PairBatch
from descore.video.frame_cache import FrameCache


class PreferencePairDataModule(LightningDataModule):
    """Reads preference pairs from tables, and decodes their videos in worker processes.

    The LightningModule supplies the collator that turns pairs into a batch.

    Args:
        train: Table of the training pairs: a CSV, JSONL or Parquet file, or a folder of such files, a pattern such as
            train/*.parquet, or a URL.
        val: Table of the validation pairs, or several by name, in the same forms; the first gives the headline
            accuracy. Without any the run is not validated.
        preset: Layout of the tables; docs/data.md lists them.
        dimensions: Label dimensions to train on, one reward each.
        batch_size: Number of training pairs per batch and device.
        val_batch_size: Number of validation pairs per batch and device.
        max_val_pairs: Number of pairs to use from the start of each validation table; 0 uses all. Fewer pairs make
            validation faster and its accuracy noisier.
        num_workers: Number of worker processes per rank that decode videos; 0 decodes in the training process. Raise it
            if `train/wait_share` shows that training waits for data.
        decoding: Limits on how far ahead the workers decode.
        cache: Cache of decoded frames and of tables in shards, for later epochs and runs.
        on_bad: What happens to rows and videos that cannot be used.
        seed: Seed of the order of pairs within an epoch.
    """

    def __init__(
        self,
        train: str,
        val: dict[str, str] | str | None = None,
        preset: str = "descore",
        dimensions: Sequence[str] = ("overall",),
        batch_size: int = 4,
        val_batch_size: int = 16,
        max_val_pairs: int = 0,
        num_workers: int = 2,
        decoding: Decoding = Decoding(),
        cache: Cache = Cache(),
        on_bad: OnBad = OnBad(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = {"val": val} if isinstance(val, str) else dict(val or {})
        self.preset = preset
        self.dimensions = tuple(dimensions)
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.max_val_pairs = max_val_pairs
        self.num_workers = num_workers
        self.decoding = decoding
        self.cache = cache
        self.on_bad = on_bad
        self.seed = seed

    @property
    def val_names(self) -> tuple[str, ...]:
        """Names of the validation tables, in the order of the loaders."""
        return tuple(self.val)

    def setup(self, stage: str) -> None:
        """Read the tables, and start counting bad videos."""
        if stage == "fit":
            self.train_pairs = self._read(self.train, "train")
        self.val_pairs = {name: self._first(self._read(table, "val")) for name, table in self.val.items()}
        if not self.val:
            rank_zero_info("No validation table (--data.val FILE): the run has no headline, and exports no best model")
        self.bad_videos = self._watch(len(self.train_pairs) if stage == "fit" else 0)

    def teardown(self, stage: str) -> None:
        """Report how many videos could not be read."""
        if found := self.bad_videos.reasons:
            rank_zero_info(f"{len(found)} videos could not be read; they are listed in {self.bad_videos.file}")

    def ungraded(self) -> tuple[int, list[str]]:
        """Return the number of training pairs without annotated scores of a video, and the ids of up to three."""
        return ungraded(self.train_pairs)

    def train_dataloader(self) -> PairLoader:
        """Return the loader of the training pairs, shuffled by (seed, epoch) and divided between the ranks."""
        return self._loader(self.train_pairs, self.batch_size, training=True)

    def val_dataloader(self) -> list[PairLoader]:
        """Return one loader per validation table, each in the order of its table."""
        return [self._loader(pairs, self.val_batch_size, training=False) for pairs in self.val_pairs.values()]

    def fitting_dataloader(self, num_pairs: int) -> PairLoader:
        """Return a loader of the first training pairs that is the same on every rank, to fit a small model on them.

        Args:
            num_pairs: Number of pairs, taken from the start of the table.
        """
        return self._loader(self.train_pairs[:num_pairs], self.val_batch_size, training=False, alike=True)

    def transfer_batch_to_device(self, batch: PairBatch, device: torch.device, dataloader_idx: int) -> PairBatch:
        """Move a batch to a device; Lightning cannot move a frozen dataclass on its own."""
        return batch.to(device, non_blocking=True)

    def _read(self, table: str, option: str) -> Sequence[Pair]:
        if not (is_url(table) or Path(table).exists() or set(table) & set("*?[")):
            raise FileNotFoundError(f"{table}: no such file or folder; give your table with --data.{option} FILE")
        options = {"preset": self.preset, "dimensions": self.dimensions, "on_bad_row": self.on_bad.row}
        folder = str(Path(self.cache.folder, "tables")) if self.cache.folder else None
        pairs, num_rejected = read_tables(table, folder=folder, **options)
        rejected = "".join(f"; {count} left out: {reason}" for reason, count in num_rejected.items())
        rank_zero_info(f"{table}: {len(pairs)} pairs{rejected}")
        return pairs

    def _first(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        return pairs[: self.max_val_pairs] if self.max_val_pairs else pairs

    def _with_prompts_of(self, pairs: Sequence[Pair], processor: Processor) -> Sequence[Pair]:
        """Return the pairs whose prompts are within the model's limit; any other one is a bad row."""
        limit = processor.settings.max_prompt_tokens
        too_long: dict[str, PromptError] = {}
        for pair in pairs:
            if len(pair.prompt) > limit:  # in characters, of which a token has at least one
                try:
                    processor.check(pair.prompt)
                except PromptError as error:
                    too_long[pair.id] = error
        if not too_long:
            return pairs
        name, reason = next(iter(too_long.items()))
        if self.on_bad.row == "error":
            raise PromptError(f"pair {name!r}: {reason}, or leave such pairs out with --data.on_bad.row skip")
        rank_zero_info(f"{len(too_long)} pairs left out: {reason}")
        return [pair for pair in pairs if pair.id not in too_long]

    def _reader(self, processor: Processor) -> Callable[[str], Frames]:
        """Return the function that reads a video: from the cache if there is one, or else fetched and decoded."""
        if not self.cache.folder:
            return RemoteVideos(processor.read)
        folder, most = str(Path(self.cache.folder, "frames")), int(self.cache.max_gb * 2**30)
        read = RemoteVideos(processor.read, folder)
        return FrameCache(read, processor.video_reader, folder, most, identify=video_state)

    def _watch(self, num_train: int) -> BadVideos:
        """Return the counter of this rank's bad videos, which lists them in the folder of the run."""
        assert self.trainer is not None
        num_pairs = num_train + sum(len(pairs) for pairs in self.val_pairs.values())
        folder, rank = Path(self.trainer.log_dir or self.trainer.default_root_dir), self.trainer.global_rank
        file = folder / f"bad_videos{f'-{rank}' if rank else ''}.jsonl"
        return BadVideos(self.on_bad.video_budget, 2 * num_pairs // self.trainer.world_size, file)

    def _loader(self, pairs: Sequence[Pair], batch_size: int, *, training: bool, alike: bool = False) -> PairLoader:
        assert self.trainer is not None
        system: Any = self.trainer.lightning_module
        processor: Processor = system.model.processor
        worst = most_bytes(batch_size, processor.settings.video, keep_frames=not training)
        return PairLoader(
            self._with_prompts_of(pairs, processor),
            system.collator(training=training, read=self._reader(processor)),
            batch_size=batch_size,
            shuffle=training,
            seed=self.seed,
            ahead=plan(self.num_workers, worst, int(self.decoding.ahead_gb * 2**30)),
            timeout=self.decoding.timeout,
            rank=0 if alike else self.trainer.global_rank,
            world_size=1 if alike else self.trainer.world_size,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            on_bad_video=self.on_bad.video,
            watch=self.bad_videos.count,
        )
