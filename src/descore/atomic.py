"""Atomic writes: a file or folder appears complete or not at all, and is flushed to disk before it appears.

    .<name>.partial      a draft being written, or a replaced version being removed
    .<name>.old          the previous version, where the filesystem cannot exchange two folders in one step

A killed process leaves these behind. The next write to the same name removes them, and so does `sweep`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import uuid
from pathlib import Path

_AT_FDCWD = -100  # resolve relative paths against the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE on Linux, RENAME_SWAP on macOS
_NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def draft_of(target: Path) -> Path:
    """Return the path of a target's draft: a hidden file or folder beside it, to write and then pass to `replace`.

    >>> draft_of(Path("runs/export")).name
    '.export.partial'
    """
    return target.with_name(f".{target.name}.partial")


def replace(draft: Path, target: Path) -> None:
    """Flush a finished draft, file or folder, to disk, and rename it to its target."""
    for path in (*draft.rglob("*"), draft):
        _sync(path)
    old = _old_of(target)
    if target.is_dir() or (draft.is_dir() and target.exists()):
        if not _exchange(draft, target):
            remove(old)
            target.rename(old)
            draft.rename(target)
    else:
        draft.replace(target)
    _sync(target.parent)
    remove(draft)
    remove(old)


def complete_path(target: Path) -> Path:
    """Return the path of a target's complete version: the target, or its `.old` copy if `replace` was interrupted."""
    old = _old_of(target)
    return old if old.exists() and not target.exists() else target


def sweep(folder: Path) -> None:
    """Remove the leftovers of killed processes from a folder and its subfolders; no process may be writing there."""
    for path in folder.rglob(".*.partial"):
        remove(path)
    for path in folder.rglob(".*.old"):
        if path.with_name(path.name[1:].removesuffix(".old")).exists():
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Create a folder if it does not exist, and check that a file can be created in it.

    Raises:
        OSError: If the folder or the file cannot be created.
    """
    probe = folder / f".{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to: {error}; choose another folder, or free disk space") from error


def _old_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; return False if the filesystem does not support it."""
    names = os.fsencode(first), os.fsencode(second)
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, _EXCHANGE)
    else:
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)
    if failed and (number := ctypes.get_errno()) not in _NOT_SUPPORTED:
        raise OSError(number, os.strerror(number), str(second))
    return not failed


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: other processes, even ones that write it too, only ever see a complete file.

    Args:
        path: File to write, in an existing folder; an existing file is replaced.
        content: Bytes, or text, which is written as UTF-8 with line ends as given.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder, "scores.json"), "{}")
    ...     [path.name for path in Path(folder).iterdir()]
    ['scores.json']
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    replace(draft, path)
