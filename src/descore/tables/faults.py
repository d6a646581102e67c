"""What is wrong with a table: a cell that cannot be used, or a column that is missing."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr

NO_LABEL = "no usable label"
"""Reason to reject a row whose labels are declared unusable by the layout."""

_SHORT = Repr()  # of any value, however long or deep
_SHORT.maxother = _SHORT.maxstring = 80


class BadCell(ValueError):
    """Raised for a cell that cannot be used.

    Attributes:
        column: Column of the cell.
        value: Content of the cell.
        reason: What was expected, in words that do not depend on the value.
    """

    def __init__(self, column: str, value: object, reason: str) -> None:
        super().__init__(f"column {column!r}: {reason}, got {_SHORT.repr(value)}")
        self.column, self.value, self.reason = column, value, reason


class MissingColumn(ValueError):
    """Raised for a column that the layout requires and the table does not have."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    r"""Return what a message about an unknown name adds: the known name that is most like it, in any case.

    >>> did_you_mean("videoalgin", ["descore", "videoalign"]), did_you_mean("x", ["descore"])
    (' (did you mean videoalign?)', '')
    >>> did_you_mean("prompt", ["\tprompt"])
    " (did you mean '\\tprompt'?)"
    """
    spelt = {one.casefold(): one for one in known}
    return "".join(f" (did you mean {listed([spelt[one]])}?)" for one in get_close_matches(name.casefold(), spelt, n=1))


def printable(text: str) -> str:
    r"""Escape the characters of a text that end a line or cannot be shown.

    >>> printable("one\ttwo")
    'one\\ttwo'
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def listed(names: Iterable[str]) -> str:
    """Return the names of columns for a message of one line: the first 30, quoted where they are not plain text.

    >>> listed(["prompt", " video", ""])
    "prompt, ' video', ''"
    """
    names = list(names)
    plain = [name if name.isprintable() and name and name == name.strip() else repr(name) for name in names[:30]]
    return ", ".join([*plain, *(["..."] if len(names) > 30 else [])])
