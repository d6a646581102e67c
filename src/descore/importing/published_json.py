"""Values of a published configuration, each checked for its type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from descore.inputs.typed_json import FileError, read_json, shorten, typed


class PublishedJson:
    """A JSON file of which some values are read, and others left alone.

    Args:
        path: File with one JSON object.

    Raises:
        FileError: If the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read_json(path)

    def read(self, kind: Any, *keys: str) -> Any:
        """Return the value at some keys, one inside the other; None where one is missing.

        Args:
            kind: Type of the value, as for `typed`; `int | None` for one that may be missing.
            *keys: Keys from the outside in.

        Raises:
            FileError: If the value has another type; the message names the keys.
        """
        value: Any = self.content
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        try:
            return typed(kind, value, ".".join(keys))
        except ValueError as error:
            raise FileError(f"{self.path}: {error}") from error

    def expect(self, value: Any, *keys: str) -> None:
        """Check a value that the import stands on.

        Raises:
            FileError: If it is another one.
        """
        found: Any = self.content
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found != value:
            raise FileError(f"{self.path}: expected {shorten(value)} for {'.'.join(keys)}, got {shorten(found)}")
