"""The checkpoint that a run is resumed from: the newest complete one of its last version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.checkpoint.filesystem import FileSystemReader

from descore.atomic import complete_path
from descore.model.finished import versions_of
from descore.runtime.checkpoints import METADATA, check_bytes


@dataclass(frozen=True, slots=True)
class Resumable:
    """A checkpoint to resume from.

    Attributes:
        path: Checkpoint file, or folder of shards.
        version: Version number of the run that wrote it.
        global_step: Number of optimizer steps before it.
        logged_step: Next step that the resumed run logs.
    """

    path: Path
    version: int
    global_step: int
    logged_step: int


def find_checkpoint(run: Path) -> Resumable | None:
    """Find the newest whole checkpoint of the last version of a run; warn about each that is damaged.

    A checkpoint that was saved between two optimizer steps is the last choice: no checkpoint holds the gradients that
    were accumulated by then.

    Args:
        run: Folder that holds `version_<n>` folders; other entries, and versions without a file, are passed over.

    Returns:
        The checkpoint, or None if that version has none.

    Raises:
        ValueError: If it has checkpoints and all of them are damaged.
    """
    versions = _versions(run)
    if not versions:
        return None
    folder = versions[max(versions)] / "checkpoints"
    candidates: list[tuple[tuple[bool, int, float], Resumable]] = []
    broken: list[str] = []
    for path in _checkpoints(folder):
        try:
            checkpoint = _read(path)
            order = (not checkpoint["half_accumulated"], checkpoint["global_step"], path.stat().st_mtime)
            resumable = Resumable(path, max(versions), checkpoint["global_step"], _logged_step(checkpoint))
        except Exception as error:  # whatever a reader makes of damaged bytes, or of another program's checkpoint
            broken.append(_describe(path, error))
            continue
        candidates.append((order, resumable))
    found = _newest_whole([one for _, one in sorted(candidates, key=lambda one: one[0], reverse=True)], broken)
    if broken and not found:
        raise ValueError(
            f"expected a checkpoint that loads in {folder}, got none: {'; '.join(broken)}. Remove it to start a new run"
        )
    for problem in broken:
        rank_zero_warn(f"skipping a checkpoint that does not load: {problem}")
    return found


def _versions(run: Path) -> dict[int, Path]:
    """Return the folders of a run by their number; a folder without a file is of a start that failed."""
    return {n: path for n, path in versions_of(run).items() if any(one.is_file() for one in path.rglob("*"))}


def _newest_whole(candidates: list[Resumable], broken: list[str]) -> Resumable | None:
    """Return the first checkpoint whose bytes are those that were written; add the others before it to `broken`."""
    for one in candidates:
        try:
            check_bytes(one.path)
        except Exception as error:
            broken.append(_describe(one.path, error))
        else:
            return one
    return None


def _describe(path: Path, error: Exception) -> str:
    return f"{path} ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"


def _logged_step(checkpoint: dict[str, Any]) -> int:
    """Optimizer steps of stage 1, batches of stage 2; Lightning's own count lags where it saves within a step."""
    loop = checkpoint["loops"]["fit_loop"]
    automatic = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    return int(automatic or loop["epoch_loop.batch_progress"]["total"]["ready"])


def _checkpoints(folder: Path) -> list[Path]:
    names = {path.name for path in folder.glob("[!.]*.ckpt")}
    names |= {path.name[1:].removesuffix(".old") for path in folder.glob(".*.ckpt.old")}
    return sorted(complete_path(folder / name) for name in names)


def _read(path: Path) -> dict[str, Any]:
    """Load a checkpoint, but for the content of its shards: their index is written after all of them."""
    if path.is_dir():
        for name, size in _shards(path).items():
            if (found := (path / name).stat().st_size) < size:
                raise ValueError(f"the shard {name} has {found:,} bytes, expected at least {size:,}")
        path = path / METADATA
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


def _shards(folder: Path) -> dict[str, int]:
    """Return the smallest possible size of each shard in bytes, by its index."""
    sizes: dict[str, int] = {}
    for place in (FileSystemReader(folder).read_metadata().storage_data or {}).values():
        sizes[place.relative_path] = max(sizes.get(place.relative_path, 0), place.offset + place.length)
    return sizes
