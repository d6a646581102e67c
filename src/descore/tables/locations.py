"""Where a table's videos lie: local paths, and URLs as fsspec names them."""

from __future__ import annotations

import os


def is_url(path: str) -> bool:
    """Say whether a path is no local one."""
    return "://" in path


def locate(table: str, cell: str) -> str:
    """Say where the path in a cell of a table points: what is relative is relative to the table's folder.

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
