"""Checkpoints that are written atomically: the previous one stays untouched until the next one is on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from torch.distributed.checkpoint.api import CheckpointException
from torch.utils._pytree import tree_leaves

from descore.atomic import draft_of, remove, replace

METADATA = "meta.pt"
"""The file of a sharded checkpoint beside its weights and moments; Lightning's own name for it."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name beside its target, syncs it to the disk, and renames it.

    Lightning stages checkpoints in the system's temporary folder and moves them, which is not atomic where that is
    another filesystem. Remote addresses are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If it cannot be written; an older checkpoint of that name stays as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with drafting(target, checkpoint) as draft:
            torch.save(checkpoint, draft)
            replace(draft, target)

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a checkpoint; it is renamed first, so that none is ever half removed."""
        if "://" in str(path):
            super().remove_checkpoint(path)
        elif (target := Path(path)).exists():
            remove(draft := draft_of(target))
            remove(target.rename(draft))


@contextmanager
def drafting(target: Path, content: Any) -> Iterator[Path]:
    """Context manager: give the temporary path to write a checkpoint to; if that fails, remove it and explain.

    Args:
        target: Path of the checkpoint.
        content: Content of the checkpoint: tensors in containers of any kind.

    Raises:
        OSError: If writing fails.
    """
    draft, free = draft_of(target), shutil.disk_usage(target.parent).free
    try:
        yield draft
    except (OSError, RuntimeError, CheckpointException) as error:  # torch reports a full disk as a RuntimeError
        remove(draft)
        needed = sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, torch.Tensor))
        kept = "the previous one is still there" if target.exists() else "there is no previous one"
        raise OSError(
            f"the checkpoint {target} could not be written: it needs at least {needed:,} bytes, {free:,} were free; "
            f"{kept}: {error}"
        ) from error
