"""The numbers that a metric compares, as columns of one length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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


def check_length(name: str, values: Sequence[object], expected: int) -> None:
    """Raise a ValueError unless there are as many values as rows."""
    if len(values) != expected:
        raise ValueError(f"expected {expected} {name}, one for each row, got {len(values)}; pass one for every row")


def check_values(name: str, column: Tensor, allowed: list[float], expected: str) -> None:
    """Raise a ValueError that says what is expected and where another number stands; nan is always allowed."""
    other = ~column.isnan() & ~torch.isin(column, torch.tensor(allowed, dtype=torch.float64))
    if other.any():
        row = int(other.nonzero()[0])
        raise ValueError(f"expected {name} of {expected}, got {column[row].item():g} in row {row}")
