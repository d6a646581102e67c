"""The export of a run: the folder itself, or the newest finished one of all its starts."""

from __future__ import annotations

import re
from pathlib import Path

from descore.atomic import complete_path
from descore.demo.shipped import DEMO, FOLDER, MODEL
from descore.types import ModelError

LAST = Path("export/last")
"""Export of a run that reached its end; one that was interrupted has at most `export/best`."""

_VERSION = re.compile(r"version_(0|[1-9][0-9]*)")


def find_export(folder: str | Path) -> Path:
    """Find the exported folder that a path stands for.

    Every start of a run writes to a folder `version_<n>` of its own. The newest finished one is that of the highest
    number that has `export/last`, which is written at the end of training.

    Args:
        folder: An exported folder; a run, such as `runs/stage1`; one of its folders `version_<n>`; or the text "demo",
            the model that ships with the package, whatever the working directory holds. Any other path is returned as
            it is, as is the hub id of a model.

    Raises:
        ModelError: If it is a run that has no finished export.

    >>> find_export("owner/name")
    PosixPath('owner/name')
    """
    if folder == DEMO:
        return FOLDER / MODEL
    folder = Path(folder)
    if str(folder) == DEMO:  # ./demo, a folder: another search must not take it for the shipped model
        folder = folder.absolute()
    if is_export(folder) or not folder.is_dir():
        return folder
    versions = versions_of(folder)
    starts = [folder, *(versions[number] for number in sorted(versions, reverse=True))]
    for start in starts:
        if is_export(start / LAST):
            return start / LAST
    if versions or _is_version(folder):
        raise ModelError(
            f"{folder} has no finished export: none of its {len(versions) or 1} starts reached its end, where it "
            f"writes {LAST}. Resume it (RESUME=auto), or train it again"
        )
    return folder


def is_export(folder: Path) -> bool:
    """Return whether a folder is an exported one."""
    return (complete_path(folder) / "descore.json").is_file()


def versions_of(run: Path) -> dict[int, Path]:
    """Return the folders `version_<n>` of a run by their number; other files and folders are passed over."""
    found = [(_VERSION.fullmatch(path.name), path) for path in run.glob("version_*") if path.is_dir()]
    return {int(match[1]): path for match, path in found if match}


def _is_version(folder: Path) -> bool:
    return _VERSION.fullmatch(folder.resolve().name) is not None
