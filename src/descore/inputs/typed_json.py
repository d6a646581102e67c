"""Dataclasses from JSON: every name, type and number is checked, and what does not fit is refused by its place."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from descore.types import ModelError

T = TypeVar("T")


class FileError(ModelError):
    """A file of a model that cannot be read: the message has the file and the reason."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        FileError: If the file is missing, is no JSON, holds something else than an object, or has NaN or Infinity.
    """
    if not path.is_file():
        raise FileError(f"{path} is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError, OSError) as error:
        raise FileError(f"{path} cannot be read as JSON: {in_one_line(error)}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path}: expected a JSON object, got {shorten(content)}")
    return content


def typed(kind: type[T], value: Any, place: str) -> T:
    """Build a value of a type from plain JSON values.

    Args:
        kind: A dataclass, `str`, `bool`, `int`, `float`, a `Literal`, or a `list`, `tuple[X, ...]`, `dict[str, X]` or
            optional of these.
        value: JSON value; a dataclass is an object with its fields, of which those with a default may be left out. Its
            function `upgrade`, if it has one, gives values of an older form their present names first.
        place: Name of the value, for the error message; empty for the content of a file.

    Raises:
        ValueError: If a field is unknown or missing, or a value has another type; a bool is no number, and a number is
            finite.

    >>> typed(dict[str, float], {"a": 1, "b": 0.5}, "weights")
    {'a': 1, 'b': 0.5}
    >>> typed(tuple[int, ...], [1, True], "sizes")
    Traceback (most recent call last):
    ...
    ValueError: sizes[1]: expected int, got true
    """
    built: T = _build(kind, value, place)
    return built


def in_one_line(error: BaseException) -> str:
    """Return the kind and the text of an error in one line, shortened."""
    return shorten(f"{type(error).__name__}: {' '.join(str(error).split())}", quote=False)


def shorten(value: Any, limit: int = 200, *, quote: bool = True) -> str:
    """Return a value as text of limited length, in JSON unless told otherwise.

    >>> shorten({"a": [1, None]}), shorten("ab" * 9, limit=5, quote=False)
    ('{"a": [1, null]}', 'ababa...')
    """
    text = json.dumps(value, default=repr) if quote else str(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _build(kind: Any, value: Any, place: str) -> Any:
    if is_dataclass(kind):
        return _build_record(kind, value, place)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        (some,) = (one for one in inner if one is not NoneType)
        return None if value is None else _build(some, value, place)
    if origin is Literal and type(value) is str and value in inner:
        return value
    if origin in {list, tuple} and type(value) in {list, tuple}:
        return origin(_build(inner[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    if origin is dict and type(value) is dict:
        return {name: _build(inner[1], item, f"{place}.{name}") for name, item in value.items()}
    if type(value) is kind and (kind is not float or math.isfinite(value)):
        return value
    if kind is float and type(value) is int:
        return value
    raise ValueError(f"{place}: expected {_name(kind)}, got {shorten(value)}")


def _build_record(kind: Any, value: Any, place: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    at, inside = (f"{place}: ", f"{place}.") if place else ("", "")
    if type(value) is not dict:
        raise ValueError(f"{at}expected an object with {', '.join(known)}; got {shorten(value)}")
    value = getattr(kind, "upgrade", dict)(value)
    if unknown := sorted(value.keys() - known.keys()):
        raise ValueError(f"{at}unknown {shorten(unknown)}; this version knows {', '.join(known)}")
    required = {name for name, field in known.items() if field.default is field.default_factory is MISSING}
    if missing := sorted(required - value.keys()):
        raise ValueError(f"{at}{', '.join(missing)} missing")
    hints = get_type_hints(kind)
    values = {name: _build(hints[name], item, f"{inside}{name}") for name, item in value.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{at}{error}") from error


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"expected finite numbers, got {name}")
