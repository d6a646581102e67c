"""The horizon of a run: the number of optimizer steps that it takes, over which a learning-rate schedule is laid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any


def limit_batches(num_batches: int, limit: float | None) -> int:
    """Return the training batches of an epoch under `trainer.limit_train_batches`, a number or a share of them.

    >>> limit_batches(10, 3), limit_batches(10, 0.25), limit_batches(10, 1.0), limit_batches(10, None)
    (3, 2, 10, 10)
    """
    if limit is None:
        return num_batches
    return min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)


def count_steps(steps: Sequence[int], max_steps: int, max_epochs: int | None) -> int | None:
    """Count the optimizer steps of a run, which ends after the batch that reaches one of its limits.

    Args:
        steps: Number of optimizer steps that each batch of an epoch takes.
        max_steps: Limit of optimizer steps; -1 for none.
        max_epochs: Limit of epochs; -1 or None for none.

    Returns:
        Number of steps; None if there is no limit.

    >>> count_steps([1, 1, 1], max_steps=-1, max_epochs=2)
    6
    >>> count_steps([1, 1, 1], max_steps=1000, max_epochs=2)
    6
    >>> count_steps([3, 3, 2], max_steps=10, max_epochs=-1)
    11
    """
    epoch = sum(steps)
    limited_by_epochs = max_epochs is not None and max_epochs >= 0
    if max_steps < 0:
        return epoch * max_epochs if limited_by_epochs and max_epochs is not None else None
    if not epoch:
        return 0
    whole, rest = divmod(max_steps, epoch)
    taken = whole * epoch + next((done for done in accumulate(steps) if done >= rest), 0) * (rest > 0)
    return min(taken, epoch * max_epochs) if limited_by_epochs and max_epochs is not None else taken


def describe_limits(trainer: Any) -> str:
    """Name the trainer's limits of a run, for an error."""
    names = ("max_steps", "max_epochs", "limit_train_batches")
    return ", ".join(f"trainer.{name} {getattr(trainer, name)}" for name in names)
