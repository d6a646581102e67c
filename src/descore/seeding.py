"""Randomness as a function: each draw depends on a seed, a purpose and counters, never on earlier draws."""

from __future__ import annotations

import hashlib

import torch


def fold(seed: int, purpose: str, *counters: int | str) -> int:
    """Hash a seed, a purpose and counters into a number of 63 bits.

    The number depends on these arguments alone, so a draw is the same for any batch size, number of workers or ranks,
    and after a resume.

    Args:
        seed: Seed of the run.
        purpose: What is drawn, such as "cot_mask"; different purposes give independent draws.
        counters: Numbers and names that identify the draw, such as an epoch and the id of a pair.

    >>> fold(0, "cot_mask", 3, "pair-17") == fold(0, "cot_mask", 3, "pair-17")
    True
    >>> fold(0, "cot_mask", 3, "pair-17") == fold(0, "cot_mask", 4, "pair-17")
    False
    """
    digest = hashlib.blake2b(repr((seed, purpose, *counters)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: str, *counters: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `fold` of the same arguments.

    >>> first, second = (torch.rand(3, generator=generator(0, "example", 1)) for _ in range(2))
    >>> first.equal(second)
    True
    """
    return torch.Generator().manual_seed(fold(seed, purpose, *counters))


def uniform(seed: int, purpose: str, *counters: int | str) -> float:
    """Draw a number from [0, 1), determined by `fold` of the same arguments.

    >>> uniform(0, "cot_mask", 3, "pair-17") == uniform(0, "cot_mask", 3, "pair-17")
    True
    """
    return fold(seed, purpose, *counters) / 2**63
