"""Tells whether a GIF is whole; decoders show what there is of a picture and say nothing."""

from __future__ import annotations

from os import PathLike


def ends_whole(path: str | PathLike[str], place: int) -> bool:
    """Return whether the last picture of a GIF is there to its end.

    Args:
        path: Path of the file.
        place: Where the last picture, or an extension in front of it, begins, in bytes.
    """
    with open(path, "rb") as file:
        file.seek(place)
        data = file.read()
    at = 0
    while data[at : at + 1] == b"!":
        at = _after_blocks(data, at + 2)
    flags = data[at + 9 : at + 10]
    if data[at : at + 1] != b"," or not flags:
        return False
    colours = 3 << (flags[0] & 7) + 1 if flags[0] & 0x80 else 0
    return _after_blocks(data, at + 10 + colours + 1) <= len(data)


def _after_blocks(data: bytes, at: int) -> int:
    """Skip blocks that begin with their size, and the size 0 that ends them; without it, go beyond the data."""
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1
