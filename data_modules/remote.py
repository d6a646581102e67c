"""Videos on remote storage or in tar files, named by fsspec URLs and copied to a temporary file to be decoded.

Only training reads URLs, since its tables are the user's own. Scoring refuses them.
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

_WAITS = (0.5, 2.0, 8.0)  # seconds to wait before each further attempt to fetch
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, tarfile.TarError)  # no other attempt can fix these
_TAR = "tar://"


def video_state(path: str) -> object:
    """Return a key that changes when a video changes, for a cache; for a local file it is `file_state`.

    Args:
        path: Path or URL of the video.

    Raises:
        OSError: If the file or the storage cannot be reached.
    """
    if not is_url(path):
        return file_state(path)
    try:
        _, storage, where = _open(path)
        return path, storage.ukey(where)
    except Exception as error:  # every storage raises errors of its own
        raise OSError(str(error)) from error


class RemoteVideos:
    """Reads local videos directly, and remote ones through a temporary file, one at a time.

    A remote video has any URL that fsspec knows, such as `s3://bucket/a.mp4`. `tar://a.mp4::clips.tar` is a member of
    an uncompressed tar file, local or remote; only the bytes of the member are read.

    Args:
        read: Function that reads a local file.
        folder: Folder for temporary files and for the lists of tar files' members. If not given, temporary files lie in
            the system's folder, and the lists are not kept.
    """

    def __init__(self, read: Callable[[str], Frames], folder: str | None = None) -> None:
        self.read = read
        self.folder = folder

    def __call__(self, path: str) -> Frames:
        """Read one video.

        Args:
            path: Path or URL of the video.

        Raises:
            ImportError: If the storage needs a package that is not installed.
            VideoError: If the video cannot be fetched or decoded.
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
        """Copy a remote video to a local file, and try again after errors that may pass."""
        for wait in (*_WAITS, None):
            try:
                self._copy(url, path)
                return
            except (ImportError, VideoError):
                raise
            except Exception as error:  # every storage raises errors of its own
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
            raise VideoError(url, f"expected a member of the tar file; it has {len(members)} members, and not this one")
        start, size = members[member]
        Path(path).write_bytes(storage.cat_file(where, start, start + size))


def _open(url: str) -> tuple[str | None, Any, str]:
    """Return the member's name if a URL points into a tar file, and the storage and path of the file."""
    member = None
    if url.startswith(_TAR):
        member, _, url = url.removeprefix(_TAR).partition("::")
    return member, *fsspec.core.url_to_fs(url)


@functools.lru_cache(maxsize=256)
def _members(storage: Any, where: str, state: str, folder: str | None) -> dict[str, list[int]]:
    """Return the offset and size of each member of a tar file; kept on disk, since every epoch has new workers."""
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
    # Small blocks: only the headers between the members are read.
    with storage.open(where, "rb", block_size=2**16) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        return {member.name: [member.offset_data, member.size] for member in archive if member.isreg()}
