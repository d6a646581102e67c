"""The DataModule of the long videos in which one moment decides, rendered once and then read like any other pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from filelock import FileLock

from data_modules.options import Cache, Decoding
from data_modules.preference import PreferencePairDataModule
from data_modules.world.moments import render_moments
from descore.types import Pair, Side

_CALL = re.compile(r"<tool_call>.*?</tool_call>", re.DOTALL)


class MomentPairDataModule(PreferencePairDataModule):
    """Renders pairs of 8-second videos that differ in the half second that the prompt names, unless `root` has them.

    The teacher's thoughts ask for the 4 frames around that moment; the numbers are those of all 64 frames, so the model
    must sample all of them: model.video {fps: 8, max_frames: 64}.

    Args:
        root: Folder of the rendered data.
        num_train: Number of training pairs.
        num_val: Number of validation pairs.
        calls: Whether the thoughts ask for frames; without, they say at once what is shown, for a model with no tool.
        render_seed: Seed of the rendered data.
        batch_size: Number of training pairs per batch and device.
        val_batch_size: Number of validation pairs per batch and device.
        max_val_pairs: Number of validation pairs to use, from the start of the table; 0 uses all.
        num_workers: Number of worker processes per rank that decode videos; 0 decodes in the training process.
        decoding: Limits on how far ahead the workers decode.
        cache: Cache of decoded frames, for later epochs and runs.
        seed: Seed of the order of pairs within an epoch.
    """

    def __init__(
        self,
        root: str = "runs/moments",
        num_train: int = 1000,
        num_val: int = 256,
        calls: bool = True,
        render_seed: int = 0,
        batch_size: int = 8,
        val_batch_size: int = 32,
        max_val_pairs: int = 0,
        num_workers: int = 2,
        decoding: Decoding = Decoding(),
        cache: Cache = Cache(),
        seed: int = 0,
    ) -> None:
        self.sizes: dict[Literal["train", "val"], int] = {"train": num_train, "val": num_val}
        self.root = Path(root)
        self.calls = calls
        self.render_seed = render_seed
        super().__init__(
            train=str(self.root / "train" / "pairs.jsonl"),
            val=str(self.root / "val" / "pairs.jsonl"),
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            max_val_pairs=max_val_pairs,
            num_workers=num_workers,
            decoding=decoding,
            cache=cache,
            seed=seed,
        )

    def _read(self, table: str, option: str) -> Sequence[Pair]:
        pairs = super()._read(table, option)
        return pairs if self.calls else [replace(pair, a=_silent(pair.a), b=_silent(pair.b)) for pair in pairs]

    def prepare_data(self) -> None:
        """Render the missing splits, under a lock: one rank of each node calls this, and nodes may share the folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            for split, num_pairs in self.sizes.items():
                render_moments(self.root, split, num_pairs, self.render_seed)


def _silent(side: Side) -> Side:
    """Return a side whose thought asks for nothing."""
    return replace(side, thought=_CALL.sub("", side.thought))
