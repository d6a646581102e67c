"""The checkpoint that a run is resumed from: the newest complete one of its last version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.checkpoint.filesystem import FileSystemReader

from descore.atomic import complete_path
from descore.runtime.checkpoints import METADATA


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
    """Find the newest complete checkpoint of the last version of a run; warn about each that does not load.

    A checkpoint that was saved between two optimizer steps is the last choice: no checkpoint holds the gradients that
    were accumulated by then.

    Args:
        run: Folder that holds `version_<n>` folders.

    Returns:
        The checkpoint, or None if that version has none.

    Raises:
        ValueError: If it has checkpoints and none of them loads.
    """
    versions = sorted(int(path.name.removeprefix("version_")) for path in run.glob("version_*[0-9]"))
    if not versions:
        return None
    folder = run / f"version_{versions[-1]}" / "checkpoints"
    found: list[tuple[tuple[bool, int, float], Resumable]] = []
    broken: list[str] = []
    for path in _checkpoints(folder):
        try:
            checkpoint = _read(path)
            order = (not checkpoint["half_accumulated"], checkpoint["global_step"], path.stat().st_mtime)
            resumable = Resumable(path, versions[-1], checkpoint["global_step"], _logged_step(checkpoint))
        except Exception as error:  # whatever a reader makes of damaged bytes, or of another program's checkpoint
            broken.append(f"{path} ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})")
            continue
        found.append((order, resumable))
    if broken and not found:
        raise ValueError(
            f"expected a checkpoint that loads in {folder}, got none: {'; '.join(broken)}. Remove it to start a new run"
        )
    for problem in broken:
        rank_zero_warn(f"skipping a checkpoint that does not load: {problem}")
    return max(found, key=lambda one: one[0])[1] if found else None


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
