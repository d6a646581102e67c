"""Sums of the files of an exported folder: damage that no shape shows is found when the folder is loaded."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from descore.inputs.typed_json import FileError


def sum_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, by its path there, as `sha256sum` prints it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return dict(zip(names, sums_of(folder / name for name in names), strict=True))


def check_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Compare the files of a folder with their sums, on all cores: the files were just read, and lie in memory.

    Text may be edited by hand, a chat template for instance, which is warned of.

    Raises:
        FileError: If a file is missing, or a safetensors file has another sum.
    """
    for name in sums:
        if not (folder / name).is_file():
            raise FileError(f"{folder / name} is missing: copy the folder again")
    for name, found in zip(sums, sums_of(folder / name for name in sums), strict=True):
        if found != sums[name] and name.endswith(".safetensors"):
            raise FileError(
                f"{folder / name} is damaged: its SHA-256 is {found}, expected {sums[name]}; copy the folder again"
            )
        if found != sums[name]:
            warnings.warn(f"{folder / name} is not as it was exported: damaged, or edited by hand", stacklevel=2)


def sums_of(paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of each of some files, in their order, computed on all cores."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_sum, paths))


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
