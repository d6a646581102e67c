"""Pairs rendered on the fly: written once as mp4 files and pair tables, then read like any other."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from data_modules.options import Cache, Decoding
from data_modules.preference import PreferencePairDataModule
from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.scene import Split


class RenderedPairDataModule(PreferencePairDataModule):
    """Renders training, in-domain and out-of-domain pairs under `root`, where they are not there yet.

    Args:
        root: Folder of the rendered data.
        num_train: Training pairs.
        num_val: Validation pairs, in-domain and out-of-domain each.
        render: What is rendered, and how the teacher errs.
        render_seed: Seed of the rendered data.
        batch_size: Pairs per batch and device.
        val_batch_size: Pairs per validation batch and device.
        max_val_pairs: Use only the first pairs of each validation table; 0 uses all.
        num_workers: Worker processes of each rank that decode videos; 0 decodes in the training process.
        decoding: How far the workers decode ahead.
        cache: Where decoded frames are kept for other epochs and runs.
        seed: Seed of the order of an epoch.
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

    def prepare_data(self) -> None:
        """Render what is missing: Lightning asks one process of each node, and nodes may share the folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            for split, num_pairs in self.sizes.items():
                render_split(self.root, split, num_pairs, self.render, self.render_seed)
