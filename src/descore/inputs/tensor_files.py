"""Safetensors files of a model: which they are, what their headers say, and their tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from descore.inputs.typed_json import FileError, in_one_line, read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"BF16", "F16", "F32", "F64"}


class Header(NamedTuple):
    """What the header of a safetensors file says of a tensor.

    Attributes:
        dtype: Data type, in the words of safetensors: "F32", "BF16".
        shape: Shape.
    """

    dtype: str
    shape: list[int]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context manager: whatever a reader makes of damaged bytes becomes a `FileError` with the file and the reason."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # readers of damaged files raise anything: KeyError, TypeError, their own classes
        raise FileError(f"{path} cannot be read: {in_one_line(error)}") from error


def read_headers(path: Path) -> dict[str, Header]:
    """Read name, data type and shape of each tensor of a safetensors file, whose values stay on the disk.

    Raises:
        FileError: If the file is missing, is cut, is no safetensors, or has a tensor of integers.
    """
    if not path.is_file():
        raise FileError(f"{path} is missing; export or download the model again")
    with reading(path), safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        headers = {name: Header(one.get_dtype(), list(one.get_shape())) for name, one in slices.items()}
    for name, header in headers.items():
        if header.dtype not in FLOATS:
            raise FileError(f"{path}: {name} has the type {header.dtype}; expected one of {', '.join(sorted(FLOATS))}")
    return headers


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model in transformers' format: one, or those that its index names.

    Raises:
        FileError: If there are none, or the index names a file outside of the folder.
    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
        raise FileError(f"{folder / INDEX}: expected a weight_map of tensors and file names")
    for name in (names := sorted(set(index.values()))):
        if not name.endswith(".safetensors") or not _is_inside(folder, name):
            raise FileError(f"{folder / INDEX} names {name!r}; expected a safetensors file inside {folder}")
    return [folder / name for name in names]


def load_finite(path: Path) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file.

    Raises:
        FileError: If the file is damaged, or a number is not finite.
    """
    with reading(path):
        tensors = load_file(path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise FileError(f"{path}: {name} has numbers that are not finite; export the model of an earlier step")
    return tensors


def check_shapes(path: Path, found: Mapping[str, Header], expected: Mapping[str, list[int]]) -> None:
    """Check that a file has the expected tensors and no others.

    Raises:
        FileError: If a tensor is missing, extra or of another shape; the message names each.
    """
    problems = [f"missing {name}" for name in expected.keys() - found.keys()]
    problems += [f"extra {name}" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {found[name].shape}, expected {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name]
    ]
    if problems:
        raise FileError(f"{path}: {'; '.join(sorted(problems))}")


def _is_inside(folder: Path, name: str) -> bool:
    """Return whether a name stays in a folder; the hub's cache links from there to the blobs beside its snapshots."""
    path = folder / name
    if os.path.isabs(name) or ".." in Path(name).parts:
        return False
    if path.resolve().is_relative_to(folder.resolve()):
        return True
    return path.is_symlink() and path.parent.joinpath(path.readlink()).parent.resolve() == _blobs(folder)


def _blobs(folder: Path) -> Path | None:
    snapshots = folder.resolve().parent
    return snapshots.parent / "blobs" if snapshots.name == "snapshots" else None
