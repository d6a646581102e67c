"""Cache of decoded frames on disk: a video is decoded once for all epochs, workers and runs of a machine."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import secrets
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from descore.types import Frames
from descore.video.frames import VideoReader

_SUFFIX = ".safetensors"
_DIGITS = 20
_NOT_DECODING = {"__init__.py", "frame_cache.py", "isolation.py", "writer.py"}  # modules here that change no frame
_FILL = 0.9  # share of the limit that an eviction leaves, so that not every new entry lists the folder
_ABANDONED = 600.0  # seconds after which an unfinished file is taken for a leftover of a killed process


def file_state(path: str) -> tuple[str, int, int]:
    """Return a key of a local file that changes with the file: absolute path, size in bytes and time of change in ns.

    Raises:
        OSError: If the file does not exist or cannot be read.
        ValueError: If the text is not a path, such as one with a null byte.
    """
    status = os.stat(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


class FrameCache:
    """Returns the frames of a video from a folder, or reads the video and stores its frames there.

    An entry is valid for one state of the file, one set of video settings and one version of the decoding code.
    Processes on one machine share the folder: entries appear atomically, and one process at a time evicts. A damaged
    entry is replaced. Videos that cannot be read are not stored.

    Args:
        read: Function that reads a video which is not in the cache, such as `Processor.read`.
        reader: Video settings for one backbone, such as `Processor.video_reader`.
        folder: Folder of the entries, on a local disk; it is created if it does not exist.
        max_bytes: Limit on the size of all entries in bytes; beyond it, the least recently used entries are removed.
        identify: Function that returns a key of a file in its present state, and raises `OSError` or `ValueError` if
            there is none.

    Raises:
        OSError: If the folder cannot be created or written.
    """

    def __init__(
        self,
        read: Callable[[str], Frames],
        reader: VideoReader,
        folder: str | PathLike[str],
        max_bytes: int,
        *,
        identify: Callable[[str], object] = file_state,
    ) -> None:
        self.read = read
        self.reader = reader
        self.folder = Path(folder).absolute()
        self.max_bytes = max_bytes
        self.identify = identify
        self._stores = True
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        with self._lock() as number:
            _write_number(number, sum(size for _, size, _ in self._entries()))

    def __call__(self, path: str) -> Frames:
        """Return the frames of one video.

        Raises:
            VideoError: If the file cannot be read.
        """
        entry = self._entry(path)
        frames = entry and _load(entry)
        if not frames:
            frames = self.read(path)
            if entry and self._stores and self._entry(path) == entry:  # else the file has changed meanwhile
                self._store(entry, frames)
        return frames

    def _entry(self, path: str) -> Path | None:
        """Return the path of a file's entry in its present state; None if the file has no key."""
        try:
            state = (self.identify(path), self.reader, _code_version())
        except (OSError, ValueError):
            return None
        name = hashlib.blake2b(repr(state).encode(), digest_size=20).hexdigest()
        return self.folder / f"{name}{_SUFFIX}"

    def _store(self, entry: Path, frames: Frames) -> None:
        draft = entry.with_suffix(f".{secrets.token_hex(8)}.tmp")
        try:
            _save(draft, frames)
            self._admit(draft, entry)
        except (OSError, SafetensorError) as error:
            self._stores = False
            warnings.warn(f"{self.folder} takes no more frames, so videos are decoded each time: {error}", stacklevel=3)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def _admit(self, draft: Path, entry: Path) -> None:
        """Turn a draft into an entry, and evict other entries if the limit requires it."""
        size = draft.stat().st_size
        if size > self.max_bytes:
            return
        with self._lock() as number:
            stored = _read_number(number) + size
            if stored > self.max_bytes:
                stored = self._evict(self.max_bytes * _FILL - size) + size
            # Written before the entry appears: a kill in between leaves a number too large, never one too small.
            _write_number(number, stored)
            draft.replace(entry)

    def _evict(self, most: float) -> int:
        """Remove the least recently used entries until at most `most` bytes are left; return the bytes left."""
        entries = sorted(self._entries())
        left = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if left <= most:
                break
            Path(path).unlink(missing_ok=True)
            left -= size
        return left

    def _entries(self) -> list[tuple[int, int, str]]:
        """Return time of last use, size and path of each entry."""
        with os.scandir(self.folder) as files:
            found = [(file.stat(), file.path) for file in files if file.name.endswith(_SUFFIX)]
        return [(status.st_mtime_ns, status.st_size, path) for status, path in found]

    def _remove_abandoned(self) -> None:
        for draft in self.folder.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # its process has just finished it
                if time.time() - draft.stat().st_mtime > _ABANDONED:
                    draft.unlink()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[int]:
        """Hold the folder's lock: an exclusive lock on the file with the number of stored bytes."""
        file = os.open(self.folder / "stored_bytes", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def _save(path: Path, frames: Frames) -> None:
    fields = [[*frames.pixels.shape], [*frames.indices], frames.source_fps, frames.num_source_frames, *frames.times]
    metadata = json.dumps([*fields, _checksum(frames.pixels, fields)])
    save_file({"pixels": frames.pixels}, path, {"frames": metadata})


def _load(entry: Path) -> Frames | None:
    """Read an entry; return None if it does not exist or is damaged."""
    try:
        with safe_open(entry, "pt") as file:
            metadata, pixels = file.metadata(), file.get_tensor("pixels")
        *fields, checksum = json.loads(metadata["frames"])
        shape, indices, source_fps, num_source_frames, *times = fields
    # RuntimeError: another process removed the entry while it was being opened.
    except (OSError, RuntimeError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    if pixels.dtype != torch.uint8 or [*pixels.shape] != shape or _checksum(pixels, fields) != checksum:
        return None
    with contextlib.suppress(OSError):  # the entry was removed since, or the disk is read-only
        os.utime(entry)
    return Frames(pixels, tuple(indices), source_fps, num_source_frames, tuple(times))


def _checksum(pixels: Tensor, fields: list[Any]) -> int:
    return zlib.crc32(pixels.numpy().data, zlib.crc32(json.dumps(fields).encode()))


def _read_number(file: int) -> int:
    try:
        return int(os.pread(file, _DIGITS, 0))
    except ValueError:  # truncated: the largest number causes a new count
        return sys.maxsize


def _write_number(file: int, number: int) -> None:
    os.pwrite(file, f"{number:{_DIGITS}}".encode(), 0)


@functools.cache
def _code_version() -> str:
    """Return a hash of the modules that turn a file into frames, and the versions of the packages that they use."""
    digest = hashlib.blake2b(digest_size=20)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if source.name not in _NOT_DECODING:
            digest.update(source.read_bytes())
    return " ".join([digest.hexdigest(), *(version(package) for package in ("av", "decord", "pillow", "torch"))])
