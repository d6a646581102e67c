"""The numbers that a metric compares, as columns of one length."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)

Column = Tensor | Sequence[float]
"""[N] numbers, on any device and of any type; nan is missing."""


def float64_columns(**columns: Column) -> list[Tensor]:
    """Return the named columns as float64 on the CPU, where close numbers stay apart.

    Raises:
        ValueError: If they are not [N] of the same N.
    """
    tensors = [torch.as_tensor(column, dtype=torch.float64, device="cpu").detach() for column in columns.values()]
    if tensors[0].ndim != 1 or len({tensor.shape for tensor in tensors}) > 1:
        raise ValueError(
            f"expected {' and '.join(columns)} of one shape [N], got "
            f"{' and '.join(str(list(tensor.shape)) for tensor in tensors)}; pass one reward dimension at a time"
        )
    return tensors


def numbered(name: str, keys: Sequence[Key], expected: int) -> tuple[list[Key], Tensor]:
    """Return the distinct keys as they first come, and [N] int64: the place of each row's key among them.

    Raises:
        ValueError: If there are not as many keys as rows.
    """
    if len(keys) != expected:
        raise ValueError(f"expected {expected} {name}, one for each row, got {len(keys)}; pass one for every row")
    places: dict[Key, int] = {}
    rows = [places.setdefault(key, len(places)) for key in keys]
    return list(places), torch.tensor(rows, dtype=torch.int64)


def check_values(name: str, column: Tensor, allowed: list[float], expected: str) -> None:
    """Raise a ValueError that says what is expected and where another number stands; nan is always allowed."""
    other = ~column.isnan() & ~torch.isin(column, torch.tensor(allowed, dtype=torch.float64))
    if other.any():
        row = int(other.nonzero()[0])
        raise ValueError(f"expected {name} of {expected}, got {column[row].item():g} in row {row}")
