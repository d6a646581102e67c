"""Compare all that two runs left behind: files, last checkpoints, exports and logs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from descore.runtime.checkpoints import METADATA
from tests.helpers.finished_runs import logged_points


def differences(ours: Path, theirs: Path) -> list[str]:
    """Name all that differs between the folders `version_<n>` of two runs, apart from measured times."""
    last = (_comparable(read_checkpoint(run / "checkpoints/last.ckpt"), str(run)) for run in (ours, theirs))
    found = list(_unequal(*last, "checkpoint"))
    files = [{str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()} for run in (ours, theirs)]
    names = {name for name in files[0].keys() ^ files[1].keys() if "tfevents" not in name}
    found += [f"only one has the file {name}" for name in names]
    exported = [name for name in files[0].keys() & files[1].keys() if name.startswith("export/")]
    found += [name for name in exported if files[0][name].read_bytes() != files[1][name].read_bytes()]
    return found + list(_unequal(_logged(ours), _logged(theirs), "log"))


def read_checkpoint(path: Path) -> Any:
    """Load all of a checkpoint, a file or a folder of shards."""
    if not path.is_dir():
        return torch.load(path, weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        dcp_to_torch_save(path, whole := Path(folder) / "whole.pt")
        return torch.load(whole, weights_only=True) | torch.load(path / METADATA, weights_only=True)


def _comparable(value: Any, folder: str) -> Any:
    """Leave out the folder of the run from all paths, and `current_score`, which Lightning does not restore."""
    if isinstance(value, dict):
        kept = (key for key in value if key != "current_score")
        return {_comparable(key, folder): _comparable(value[key], folder) for key in kept}
    if isinstance(value, list | tuple):
        return [_comparable(one, folder) for one in value]
    return value.replace(folder, "") if isinstance(value, str) else value


def _unequal(ours: Any, theirs: Any, name: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        yield from (f"{name}: only one has {key}" for key in ours.keys() ^ theirs.keys())
        for key in ours.keys() & theirs.keys():
            yield from _unequal(ours[key], theirs[key], f"{name}.{key}")
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(one, other, f"{name}.{index}")
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if not torch.equal(ours, theirs):
            yield name
    elif ours != theirs and not (isinstance(ours, float) and math.isnan(ours) and math.isnan(theirs)):
        yield f"{name}: {ours} and {theirs}"


def _logged(version: Path) -> dict[str, list[tuple[int, float]]]:
    """Read step and value of all scalars but measured times, as TensorBoard shows them."""
    left_out = ("second", "wait", "time/", "hp_metric")
    return {tag: found for tag, found in logged_points(version).items() if not any(word in tag for word in left_out)}
