"""Locations of the videos of a table: local paths, and URLs in the form that fsspec reads."""

from __future__ import annotations

import os
from pathlib import Path


def is_url(path: str) -> bool:
    """Return whether a path is a URL, not a local path.

    >>> is_url("s3://bucket/a.mp4"), is_url("clips/a.mp4")
    (True, False)
    """
    return "://" in path


def locate(table: str, cell: str) -> str:
    """Resolve a path in a cell of a table; a relative path is relative to the table's folder.

    Args:
        table: Path or URL of the table.
        cell: Path, URL, or member of an archive as fsspec writes it (`tar://member::archive`).

    >>> locate("train/pairs.csv", "clips/a.mp4")
    'train/clips/a.mp4'
    >>> locate("s3://bucket/train/000.parquet", "clips/a.mp4")
    's3://bucket/train/clips/a.mp4'
    >>> locate("/data/train/000.parquet", "tar://a.mp4::clips-000.tar")
    'tar://a.mp4::/data/train/clips-000.tar'
    """
    member, chained, archive = cell.rpartition("::")
    if chained:
        return f"{member}::{locate(table, archive)}"
    if is_url(cell) or os.path.isabs(cell):
        return cell
    return f"{table.rpartition('/')[0]}/{cell}" if is_url(table) else os.path.join(os.path.dirname(table), cell)


def relative_to(video: str, folder: Path) -> str:
    """Return the path of a video relative to the folder of a table, as `locate` resolves it.

    >>> relative_to("data/clips/a.mp4", Path("data"))
    'clips/a.mp4'
    """
    try:
        return Path(video).absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:  # the video is outside the folder; ".." is only safe between paths without symbolic links
        return Path(os.path.relpath(Path(video).resolve(), folder.resolve())).as_posix()
