"""Rollout rewards of the tests, named in a run's configuration by their dotted paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def says_a_vowel(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    """Return 1 for a thought that is one vowel: an arm of a bandit that pays."""
    return float(text in set("aeiou"))


def even_codes(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    """Return the share of even characters: thoughts of any kind differ in it."""
    return sum(ord(letter) % 2 == 0 for letter in text) / max(len(text), 1)
