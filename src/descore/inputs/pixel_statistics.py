"""Mean and standard deviation of the colour channels, in any of the files that transformers writes them to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from descore.inputs.typed_json import FileError, read_json, shorten, typed

NESTED = "processor_config.json"
"""The file of transformers 5, with the statistics under "video_processor" and "image_processor"."""


class PixelStatistics(NamedTuple):
    """Statistics of each colour channel, of pixels from 0 to 1.

    Attributes:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_pixel_statistics(folder: Path) -> PixelStatistics:
    """Read the pixel statistics of a backbone.

    Raises:
        FileError: If no file has them, a file has other numbers than three per key, or two files disagree.
    """
    found: dict[str, PixelStatistics] = {}
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            found |= _read(folder / name, read_json(folder / name), "")
    if (folder / NESTED).is_file():
        content = read_json(folder / NESTED)
        for part in ("video_processor", "image_processor"):
            if part in content:
                found |= _read(folder / NESTED, content[part], part)
    if not found:
        raise FileError(
            f"{folder}: expected image_mean and image_std in preprocessor_config.json, video_preprocessor_config.json "
            f"or {NESTED}, found them in none; download the backbone again, with its processor"
        )
    if len(set(found.values())) > 1:
        listed = "; ".join(f"{place}: mean {list(one.mean)}, std {list(one.std)}" for place, one in found.items())
        raise FileError(f"{folder}: expected the same image_mean and image_std everywhere, got {listed}")
    return next(iter(found.values()))


def _read(path: Path, content: Any, part: str) -> dict[str, PixelStatistics]:
    """Return the statistics by their place; nothing if this file or part has none, as a processor's own may."""
    place = f"{path.name}:{part}" if part else path.name
    if not isinstance(content, dict):
        raise FileError(f"{path}: expected an object for {part}, got {shorten(content)}")
    if not content.keys() & {"image_mean", "image_std"}:
        return {}
    return {place: PixelStatistics(*(_channels(path, part, content, key) for key in ("image_mean", "image_std")))}


def _channels(path: Path, part: str, content: dict[str, Any], key: str) -> tuple[float, ...]:
    try:
        values = typed(tuple[float, ...], content.get(key), f"{part}.{key}" if part else key)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    low = 0 if key == "image_mean" else math.ulp(0.0)
    if len(values) != 3 or not all(low <= value <= 1 for value in values):
        raise FileError(f"{path}: expected three numbers from 0 to 1 for {key}, the std above 0; got {shorten(values)}")
    return values
