"""Instructions and checklists that ship with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_FOLDER = Path(str(files("descore") / "prompts"))


def find_prompt_file(name: str | Path, suffix: str) -> Path:
    """Return the path of a file that ships with the package, or that of a file of the user's own.

    Args:
        name: Name in the package without its suffix, or a path.
        suffix: Suffix of the file in the package, such as ".txt".

    Raises:
        FileNotFoundError: If it is neither; the message lists the names in the package.

    >>> find_prompt_file("rendered", ".txt").name
    'rendered.txt'
    """
    shipped = {path.stem: path for path in sorted(_FOLDER.glob(f"*{suffix}"))}
    if str(name) in shipped:
        return shipped[str(name)]
    if not (path := Path(name)).is_file():
        raise FileNotFoundError(f"{name}: expected {', '.join(shipped)}, or the path of a {suffix} file; found neither")
    return path
