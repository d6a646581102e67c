"""Decodes JSON that others wrote: any text gives a value or a `ValueError`, never a silently chosen value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from descore.tables.faults import BadCell

MAX_DEPTH = 100
"""Lists and objects that may be nested in each other; a limit keeps later code within Python's recursion limit."""
_TOO_DEEP = f"expected at most {MAX_DEPTH} nested lists and objects"


def decode_json(text: str, start: int = 0) -> tuple[Any, int, BadCell | None]:
    """Decode the JSON value that begins at an index of a text.

    Args:
        text: Text that holds the value; more text may follow.
        start: Index of the value's first character.

    Returns:
        The value; the index behind it; and what makes the value unusable, if anything: a key that an object has twice,
        a whole number that Python does not read (over 4,300 digits), or more than `MAX_DEPTH` nested lists and objects.

    Raises:
        BadCell: If its nesting exceeds Python's recursion limit.
        ValueError: If no valid JSON begins there.

    >>> decode_json('{"a": 1} and more')
    ({'a': 1}, 8, None)
    >>> str(decode_json('{"a": 1, "a": 2}')[2])
    "column 'a': expected one value for each key, got [1, 2]"
    """
    faults: list[BadCell] = []
    decoder = json.JSONDecoder(object_pairs_hook=partial(_object, faults), parse_int=partial(_integer, faults))
    try:
        value, end = decoder.raw_decode(text, start)
    except RecursionError as error:
        raise BadCell("(all)", text[start : start + 500], _TOO_DEEP) from error
    if _is_deep(value):
        faults.append(BadCell("(all)", text[start : start + 500], _TOO_DEEP))
    return value, end, faults[0] if faults else None


def parse_json(text: str, *, more: bool = False) -> Any:
    """Decode a text that holds one JSON value.

    Args:
        text: The value, between optional white space.
        more: Whether other text may follow the value.

    Raises:
        ValueError: If the text is not valid JSON, or the value is unusable as `decode_json` describes.

    >>> parse_json(' {"a": [1]} ')
    {'a': [1]}
    """
    text = text.strip()
    value, end, fault = decode_json(text)
    if fault is not None:
        raise fault
    if end < len(text) and not more:
        raise ValueError("expected one JSON value, found more text behind it")
    return value


def _object(faults: list[BadCell], items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        key = Counter(key for key, _ in items).most_common(1)[0][0]
        values = [value for other, value in items if other == key]
        faults.append(BadCell(key, values, "expected one value for each key"))
    return found


def _integer(faults: list[BadCell], digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        faults.append(BadCell("(all)", digits, "expected numbers of at most 4300 digits"))
        return 0


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while parents := [item for item in level if isinstance(item, dict | list)]:
        level = [child for item in parents for child in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth > MAX_DEPTH
