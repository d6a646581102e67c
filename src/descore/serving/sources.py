"""Brings a video into a file of its request: from base64, an allowed path, a listed host, or pictures."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from descore.serving.fetching import FetchError, PublicBackend, check_url, fetch
from descore.serving.options import MIB, ServerOptions
from descore.serving.refusals import Held
from descore.serving.schemas import VideoSource

_PICTURES = ((b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"RIFF", ".webp"))


class SourceError(ValueError):
    """Raised for a video that a request may not name, or that is not there; the message says why."""


class Stored(NamedTuple):
    """A video of a request.

    Attributes:
        path: Its file, or the folder of its pictures.
        name: What it is called in errors.
        fps: Frame rate of pictures; None for a file.
    """

    path: str
    name: str
    fps: float | None = None


class Spool:
    """The files of one request.

    Args:
        folder: Folder that ends with the request.
        options: What may be named, and limits.
        held: The bytes that all requests hold.
    """

    def __init__(self, folder: Path, options: ServerOptions, held: Held) -> None:
        self._folder, self._options, self._held = folder, options, held
        self._most = int(options.limits.body_mb * MIB)
        self._number = 0
        self.num_held = 0

    async def store(self, source: VideoSource) -> Stored:
        """Bring a video into a file.

        Raises:
            SourceError: If it may not be named, or is not there.
            Refused: If the server holds too many bytes.
        """
        if source.base64 is not None:
            return Stored(await asyncio.to_thread(self._write, decode(source.base64)), "video")
        if source.frames is not None:
            return await asyncio.to_thread(self._store_pictures, source.frames, source.fps)
        if source.path is not None:
            return Stored(await self._copy(source.path), source.path)
        try:
            check_url(source.url or "", self._options.hosts)
            return Stored(await self._fetch(source.url or ""), "url")
        except FetchError as error:
            raise SourceError(str(error)) from error

    async def store_upload(self, file: IO[bytes]) -> Stored:
        """Bring an uploaded file into a file."""
        return Stored(await asyncio.to_thread(self._write, file), "video")

    def _write(self, content: bytes | IO[bytes]) -> str:
        path = self._new()
        with path.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                shutil.copyfileobj(content, file, MIB)
        return str(path)

    def _store_pictures(self, frames: Sequence[str], fps: float | None) -> Stored:
        fps = fps or self._options.frames_fps
        if fps is None:
            raise SourceError("frames: expected their frame rate, fps")
        folder = self._new()
        folder.mkdir()
        for index, text in enumerate(frames):
            content = decode(text)
            ending = next((ending for start, ending in _PICTURES if content.startswith(start)), None)
            if ending is None:
                raise SourceError(f"frames.{index}: expected a PNG, JPEG or WebP, got {content[:8]!r}")
            (folder / f"{index}{ending}").write_bytes(content)
        return Stored(str(folder), "frames", fps)

    async def _copy(self, name: str) -> str:
        """Copy a file from an allowed folder; a copy is what it is, whatever happens to the path."""
        with await asyncio.to_thread(open_allowed, name, self._options.roots) as source:
            self._hold(os.fstat(source.fileno()).st_size)
            return await asyncio.to_thread(self._write, source)

    async def _fetch(self, url: str) -> str:
        path = self._new()
        with path.open("wb") as file:
            async for piece in fetch(url, PublicBackend()):
                self._hold(len(piece), file.tell())
                await asyncio.to_thread(file.write, piece)
        return str(path)

    def _hold(self, number: int, before: int = 0) -> None:
        if before + number > self._most:
            raise SourceError(f"expected a video of at most {self._options.limits.body_mb:g} MiB")
        self._held.take(number)
        self.num_held += number

    def _new(self) -> Path:
        self._number += 1
        return self._folder / f"descore-video-{self._number}"


@asynccontextmanager
async def spool(options: ServerOptions, held: Held) -> AsyncIterator[Spool]:
    """Open the files of a request; they end with it."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="descore-serve-"))
    files = Spool(folder, options, held)
    try:
        yield files
    finally:
        held.give(files.num_held)
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def decode(text: str) -> bytes:
    """Decode base64.

    Raises:
        SourceError: If it is none.

    >>> decode("YSBjYXQ=")
    b'a cat'
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SourceError(f"expected a video in base64, got {text[:40]!r}") from error


def open_allowed(name: str, roots: Sequence[Path]) -> Any:
    """Open a file under one of the allowed folders; links count as what they lead to.

    Args:
        name: Path of the file; a relative one is looked for in every folder.
        roots: The folders.

    Raises:
        SourceError: If it leads elsewhere, with the same words whether it exists or not; or is no regular file.
    """
    if not roots:
        raise SourceError("path: this server takes no paths (--allow-root); send the file itself")
    if "\0" not in name:
        for root in roots:
            with suppress(OSError, ValueError):
                top, real = os.path.realpath(root), os.path.realpath(os.path.join(root, name))
                if Path(real).is_relative_to(top):
                    return _open_regular(real, top)
    raise SourceError("path: expected a file under a folder that the server allows (--allow-root)")


def _open_regular(real: str, root: str) -> Any:
    number = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    file = os.fdopen(number, "rb")
    is_regular = stat.S_ISREG(os.fstat(number).st_mode)
    # A folder on the way may have become a link meanwhile, so what was opened is checked again.
    opened = os.path.realpath(f"/proc/self/fd/{number}") if sys.platform == "linux" else real
    if is_regular and Path(opened).is_relative_to(root):
        return file
    file.close()
    raise ValueError(real)
