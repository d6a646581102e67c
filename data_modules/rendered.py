"""The DataModule of the rendered world: pairs are rendered once to mp4 files and tables, then read like any others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from data_modules.options import Cache, Decoding
from data_modules.preference import PreferencePairDataModule
from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.scene import Split
from descore.types import Pair


class RenderedPairDataModule(PreferencePairDataModule):
    """Renders pairs for training and for validation (in-domain and out-of-domain), unless `root` has them already.

    Args:
        root: Folder of the rendered data.
        num_train: Number of training pairs.
        num_val: Number of pairs of each of the two validation tables.
        render: Options of the videos, the labels and the teacher's thoughts; render.labels.dimensions are the labels.
        render_seed: Seed of the rendered data.
        batch_size: Number of training pairs per batch and device.
        val_batch_size: Number of validation pairs per batch and device.
        max_val_pairs: Number of pairs to use from the start of each validation table; 0 uses all. Fewer pairs make
            validation faster and its accuracy noisier.
        num_workers: Number of worker processes per rank that decode videos; 0 decodes in the training process. Raise it
            if `train/wait_share` shows that training waits for data.
        decoding: Limits on how far ahead the workers decode.
        cache: Cache of decoded frames, for later epochs and runs.
        seed: Seed of the order of pairs within an epoch.
    """

    def __init__(
        self,
        root: str = "runs/rendered",
        num_train: int = 1000,
        num_val: int = 512,
        render: RenderSettings | None = None,
        render_seed: int = 0,
        batch_size: int = 16,
        val_batch_size: int = 64,
        max_val_pairs: int = 0,
        num_workers: int = 2,
        decoding: Decoding = Decoding(),
        cache: Cache = Cache(),
        seed: int = 0,
    ) -> None:
        self.sizes: dict[Split, int] = {"train": num_train, "val": num_val, "ood": num_val}
        self.root = Path(root)
        self.render = render or RenderSettings()
        self.render_seed = render_seed
        tables = {split: str(self.root / split / "pairs.jsonl") for split in self.sizes}
        super().__init__(
            train=tables.pop("train"),
            val={str(split): table for split, table in tables.items()},
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            max_val_pairs=max_val_pairs,
            num_workers=num_workers,
            decoding=decoding,
            cache=cache,
            seed=seed,
        )

    def _read(self, table: str, option: str) -> Sequence[Pair]:
        return [self.render.labels(pair) for pair in super()._read(table, option)]

    def prepare_data(self) -> None:
        """Render the missing splits, under a lock: one rank of each node calls this, and nodes may share the folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            for split, num_pairs in self.sizes.items():
                render_split(self.root, split, num_pairs, self.render, self.render_seed)
