"""Errors that the user of a run can mend, told apart from faults of the program."""

from __future__ import annotations

import dis
from types import TracebackType

from lightning.fabric.utilities.exceptions import MisconfigurationException

from descore.runtime.parsing import explain

OURS = ("descore.", "data_modules.", "callbacks.")
WRONG_USE = 2
"""Exit code of a run that was asked for something that cannot be done."""


def find_wrong_use(error: BaseException) -> BaseException | None:
    """Find the error that says what is wrong with options, files or data.

    Such an error is raised on purpose by this project or by Lightning, is one of the parser about a value, or one of
    the system about a file. Another ValueError of Python or of a library is a fault of the program, which needs its
    traceback.

    Args:
        error: Error that ended the run; the parser may have raised it from another one.

    Returns:
        The error, or None for a fault of the program.

    >>> def error_of(call, *arguments):
    ...     try:
    ...         call(*arguments)
    ...     except Exception as error:
    ...         return error
    >>> from descore.inputs.prompts import PromptTemplate
    >>> find_wrong_use(error_of(PromptTemplate, "no place for a prompt")) is not None
    True
    >>> find_wrong_use(error_of(int, "one"))
    """
    whole = error
    while _raised_in(error).startswith("jsonargparse") and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ValueError) and _raised_in(error).startswith("jsonargparse"):  # a value of no allowed type
        return ValueError(explain(str(whole)))
    about_a_file = isinstance(error, OSError) and error.filename is not None
    on_purpose = isinstance(error, ValueError | OSError | ImportError) and _is_raised_by_us(error)
    return error if about_a_file or on_purpose or isinstance(error, MisconfigurationException) else None


def _is_raised_by_us(error: BaseException) -> bool:
    """Return whether the innermost call is one of the project's own, at a `raise`."""
    place = _innermost(error)
    if place is None or not _raised_in(error).startswith(OURS):
        return False
    return place.tb_frame.f_code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _raised_in(error: BaseException) -> str:
    """Return the name of the module that raised an error; empty if it was never raised."""
    place = _innermost(error)
    return "" if place is None else str(place.tb_frame.f_globals.get("__name__"))


def _innermost(error: BaseException) -> TracebackType | None:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place
