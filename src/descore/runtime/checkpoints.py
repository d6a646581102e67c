"""Checkpoints that are written atomically, and whose bytes are checked when they are read.

The previous checkpoint stays untouched until the next one is on the disk. What torch saves is a zip archive; a CRC-32
of all its bytes is added as the comment of the archive, which torch and zip tools pass over.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
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

SUMS = "sums"
"""Key in that file: the CRC-32 of each file beside it, by name."""

_COMMENT = b"crc32 "
_COMMENT_SIZE = len(_COMMENT) + 4


class CheckpointError(ValueError):
    """A checkpoint that is damaged: the message has the file and the reason."""


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
            save_summed(checkpoint, draft)
            replace(draft, target)

    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint: tensors and plain values alone, from wherever it comes; a pickle in it runs nothing.

        Raises:
            CheckpointError: If a byte of it has changed since it was written.
            UnpicklingError: If it holds anything else.
        """
        if "://" not in str(path):
            check_bytes(Path(path))
        return super().load_checkpoint(path, *args, **kwargs | {"weights_only": True})

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


def save_summed(content: dict[str, Any], path: Path) -> None:
    """Save a checkpoint into a file, with the sum of its bytes at the end."""
    torch.save(content, path)
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write(struct.pack("<H", _COMMENT_SIZE))
    with path.open("ab") as file:
        file.write(_COMMENT + struct.pack("<I", sum_of(path)))


def sum_of(path: Path, size: int | None = None) -> int:
    """Return the CRC-32 of the first bytes of a file; of all bytes if no size is given."""
    left, total = path.stat().st_size if size is None else size, 0
    with path.open("rb") as file:
        while block := file.read(min(left, 2**22)):
            total, left = zlib.crc32(block, total), left - len(block)
    return total


def check_bytes(path: Path) -> None:
    """Compare a checkpoint, a file or a folder of shards, with the sums that were written with it.

    A file that another program wrote has no sum and passes.

    Raises:
        CheckpointError: If a file is cut or a byte of it has changed; the message names the file.
    """
    files = [path] if path.is_file() else sorted(path.iterdir())
    _check_once(path, tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@lru_cache
def _check_once(path: Path, state: tuple[tuple[Path, int, int], ...]) -> None:
    """Check a checkpoint whose files are in this state: a resumed run finds it first, and then loads it."""
    if not path.is_dir():
        _check_file(path)
        return
    _check_file(path / METADATA)
    sums = torch.load(path / METADATA, map_location="cpu", weights_only=True, mmap=True).get(SUMS, {})
    for name, expected in sums.items():
        if not (path / name).is_file() or sum_of(path / name) != expected:
            raise CheckpointError(f"{path / name} is damaged: its bytes are not those that were written")


def _check_file(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(-min(size, 22), 2)
        end = file.read()
    if end.startswith(b"PK\5\6") and end.endswith(b"\0\0"):
        return  # the end of an archive without a comment: not written here
    if end[-_COMMENT_SIZE:] != _COMMENT + struct.pack("<I", sum_of(path, max(size - _COMMENT_SIZE, 0))):
        raise CheckpointError(f"{path} is damaged: its bytes are not those that were written")
