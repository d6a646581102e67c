"""Checkpoints that appear whole or not at all: the one before is never touched until the next is on the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until the disk has it, and then puts it there in one step.

    Lightning stages checkpoints in the system's temporary folder, and moves them: not in one step where that is another
    filesystem. What a killed run left unfinished is removed by the next save of the same checkpoint. Remote addresses
    are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If it cannot be written, with what was there before left as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.partial")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            unfinished.unlink(missing_ok=True)
            free = shutil.disk_usage(target.parent).free / 1e6
            kept = f"the one from before is still at {target}" if target.exists() else f"there is none at {target} yet"
            raise OSError(f"the checkpoint could not be written, {free:,.0f} MB are free; {kept}: {error}") from error
        _sync(target.parent)


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names of the files of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(draft: Path, target: Path) -> None:
    """Put a finished folder in the place of another, which is moved away whole before it is removed."""
    for path in (*draft.rglob("*"), draft):
        _sync(path)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.is_file():
        target.unlink()
    elif target.exists():
        target.rename(old)
    draft.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
