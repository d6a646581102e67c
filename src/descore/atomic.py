"""Files and folders that appear whole or not at all, and are on the disk when they do.

    .<name>.partial      a draft that is being written, or what it took the place of and is being removed
    .<name>.old          what was there before, where the filesystem cannot exchange two folders in one step

A process that is killed leaves them behind; the next one to write the same name, or `sweep`, removes them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import uuid
from pathlib import Path

_HERE = -100  # AT_FDCWD: relative paths begin at the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of a Mac
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def draft_of(target: Path) -> Path:
    """Return the path beside a target where its next version is written."""
    return target.with_name(f".{target.name}.partial")


def replace(draft: Path, target: Path) -> None:
    """Put a finished draft, file or folder, in the place of its target, once the disk has it."""
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


def whole(target: Path) -> Path:
    """Return where a target is whole: in its place, or set aside by a process that was killed while it replaced it."""
    old = _old_of(target)
    return old if old.exists() and not target.exists() else target


def sweep(folder: Path) -> None:
    """Remove what killed processes left anywhere in a folder; none may be writing there."""
    for path in folder.rglob(".*.partial"):
        remove(path)
    for path in folder.rglob(".*.old"):
        if path.with_name(path.name[1:].removesuffix(".old")).exists():
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder, and a file in it for a moment.

    Raises:
        OSError: If that cannot be done.
    """
    probe = folder / f".{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to: {error}; choose another folder, or make room") from error


def _old_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names of the files of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step; return whether the filesystem can."""
    names = os.fsencode(first), os.fsencode(second)
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, _EXCHANGE)
    else:
        failed = library.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    if failed and (number := ctypes.get_errno()) not in _CANNOT:
        raise OSError(number, os.strerror(number), str(second))
    return not failed


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all, whoever else writes it at the same time."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    draft.write_text(text, encoding="utf-8", newline="\n")
    replace(draft, path)
