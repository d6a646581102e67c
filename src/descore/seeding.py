"""Randomness as a function: every draw is keyed by a seed, a purpose and counters, never by what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def fold(seed: int, purpose: str, *counters: int | str) -> int:
    """Hash a seed, a purpose and counters into 63 bits.

    Batch size, workers, ranks, prefetch, validation and kills change nothing, since none of them is an input.

    >>> fold(0, "cot_mask", 3, "pair-17") == fold(0, "cot_mask", 3, "pair-17")
    True
    >>> fold(0, "cot_mask", 3, "pair-17") == fold(0, "cot_mask", 4, "pair-17")
    False
    """
    digest = hashlib.blake2b(repr((seed, purpose, *counters)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: str, *counters: int | str) -> torch.Generator:
    """Return a CPU generator for one draw; see `fold`."""
    return torch.Generator().manual_seed(fold(seed, purpose, *counters))


def uniform(seed: int, purpose: str, *counters: int | str) -> float:
    """Return one number in [0, 1); see `fold`."""
    return fold(seed, purpose, *counters) / 2**63
