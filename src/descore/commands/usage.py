"""Wrong use of a command: an error that ends it in one line, with exit code 2."""

from __future__ import annotations


class UsageError(ValueError):
    """Options, files or a model that a command cannot work with; the message says why, and what to do."""
