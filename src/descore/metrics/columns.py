"""Conversion and checks of the columns that a metric compares."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)

Column = Tensor | Sequence[float]
"""[N] numbers on any device and of any dtype; nan marks a missing one."""


def float64_columns(**columns: Column) -> list[Tensor]:
    """Convert named columns to float64 on the CPU, so that close numbers stay distinct.

    Raises:
        ValueError: If the columns are not all [N] with the same N.
    """
    tensors = [torch.as_tensor(column, dtype=torch.float64, device="cpu").detach() for column in columns.values()]
    if tensors[0].ndim != 1 or len({tensor.shape for tensor in tensors}) > 1:
        raise ValueError(
            f"expected {' and '.join(columns)} of one shape [N], got "
            f"{' and '.join(str(list(tensor.shape)) for tensor in tensors)}; pass one reward dimension at a time"
        )
    return tensors


def number_keys(name: str, keys: Sequence[Key], expected: int) -> tuple[list[Key], Tensor]:
    """Return the distinct keys in order of first appearance, and an index into them for each row ([N] int64).

    Raises:
        ValueError: If the number of keys is not the expected number of rows.

    >>> number_keys("groups", ["b", "a", "b"], expected=3)
    (['b', 'a'], tensor([0, 1, 0]))
    """
    if len(keys) != expected:
        raise ValueError(f"expected {expected} {name}, one for each row, got {len(keys)}")
    places: dict[Key, int] = {}
    rows = [places.setdefault(key, len(places)) for key in keys]
    return list(places), torch.tensor(rows, dtype=torch.int64)


def check_values(name: str, column: Tensor, allowed: list[float], expected: str) -> None:
    """Check that a column holds only allowed numbers or nan.

    Raises:
        ValueError: If it holds another number; the message says in which row, and what was expected.
    """
    other = ~column.isnan() & ~torch.isin(column, torch.tensor(allowed, dtype=torch.float64))
    if other.any():
        row = int(other.nonzero()[0])
        raise ValueError(f"expected {name} of {expected}, got {column[row].item():g} in row {row}")
