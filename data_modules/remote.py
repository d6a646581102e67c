"""Videos that lie on remote storage or in tar files: named as fsspec names them, copied to a file to be decoded.

Only training does this: its tables are the user's own. Scoring and the server refuse every URL.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import fsspec

from descore.tables.locations import is_url
from descore.types import Frames
from descore.video.checks import VideoError
from descore.video.frame_cache import file_state

_WAITS = (0.5, 2.0, 8.0)  # seconds before each new attempt to fetch
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, tarfile.TarError)  # what no new attempt mends
_TAR = "tar://"


def video_state(path: str) -> object:
    """Name a video in its present state, for a cache; see `file_state`.

    Raises:
        OSError: If it cannot be found out.
    """
    if not is_url(path):
        return file_state(path)
    try:
        _, storage, where = _open(path)
        return path, storage.ukey(where)
    except Exception as error:  # each storage has errors of its own
        raise OSError(str(error)) from error


class RemoteVideos:
    """Reads videos wherever they lie: local ones as they are, others through a temporary file, one at a time.

    A URL is any that fsspec knows, such as `s3://bucket/a.mp4`; `tar://a.mp4::clips.tar` is a member of an uncompressed
    tar file, local or remote, of which no more than the member is read.

    Args:
        read: Reads a local file.
        folder: Where temporary files lie, and what tar files hold is remembered; by default the system's folder for the
            former, and nothing is remembered.
    """

    def __init__(self, read: Callable[[str], Frames], folder: str | None = None) -> None:
        self.read = read
        self.folder = folder

    def __call__(self, path: str) -> Frames:
        """Read one video.

        Raises:
            ImportError: If the storage needs a package that is not installed.
            VideoError: If the video cannot be fetched or used.
        """
        if not is_url(path):
            return self.read(path)
        with NamedTemporaryFile(dir=self.folder, suffix=".tmp") as file:
            self._fetch(path, file.name)
            try:
                return self.read(file.name)
            except VideoError as error:
                raise VideoError(path, error.reason) from error

    def _fetch(self, url: str, path: str) -> None:
        """Copy a video to a local file, in a few attempts."""
        for wait in (*_WAITS, None):
            try:
                self._copy(url, path)
                return
            except (ImportError, VideoError):
                raise
            except Exception as error:  # each storage has errors of its own
                if wait is None or isinstance(error, _FINAL):
                    raise VideoError(url, f"cannot be fetched ({type(error).__name__}: {error})") from error
                time.sleep(wait)

    def _copy(self, url: str, path: str) -> None:
        member, storage, where = _open(url)
        if member is None:
            storage.get_file(where, path)
            return
        members = _members(storage, where, storage.ukey(where), self.folder)
        if member not in members:
            raise VideoError(url, f"expected a member of the tar file, which has {len(members)} others")
        start, size = members[member]
        Path(path).write_bytes(storage.cat_file(where, start, start + size))


def _open(url: str) -> tuple[str | None, Any, str]:
    """Return the member if the URL is one of a tar file, and the storage and path of the object."""
    member = None
    if url.startswith(_TAR):
        member, _, url = url.removeprefix(_TAR).partition("::")
    return member, *fsspec.core.url_to_fs(url)


@functools.lru_cache(maxsize=256)
def _members(storage: Any, where: str, state: str, folder: str | None) -> dict[str, list[int]]:
    """Where each member of a tar file begins, and its bytes; kept in the folder, since each epoch has new workers."""
    if folder is None:
        return _list_members(storage, where)
    digest = hashlib.blake2b(repr((storage.to_json(), where, state)).encode(), digest_size=20).hexdigest()
    known = Path(folder) / f"{digest}.members.json"
    try:
        members: dict[str, list[int]] = json.loads(known.read_text())
    except (OSError, ValueError):
        members = _list_members(storage, where)
        with NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as file:
            json.dump(members, file)
        os.replace(file.name, known)
    return members


def _list_members(storage: Any, where: str) -> dict[str, list[int]]:
    # Small blocks, since only the headers between the members are read.
    with storage.open(where, "rb", block_size=2**16) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        return {member.name: [member.offset_data, member.size] for member in archive if member.isreg()}
