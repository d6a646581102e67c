"""Record of how a run was started: command, seed, machine, commit, and the version of every package."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from descore.atomic import draft_of, replace

FILE = "record.json"
COMPARED = ("commit", "uncommitted", "packages", "python", "device", "threads", "world_size", "seed")


class RunRecord(Callback):
    """Writes `<run>/record.json`, a list with one entry for every start of the run.

    A run may resume with another commit, package version, device or number of ranks than it was started with, but then
    its results are no longer equal to the bit. The callback warns of what has changed.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Append an entry for this start, and warn of what differs from the previous one."""
        file = Path(trainer.log_dir or trainer.default_root_dir) / FILE  # on every rank: log_dir is a collective call
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        starts: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
        now = _describe(trainer)
        if changed := changes(starts[-1], now) if starts else []:
            rank_zero_warn(
                f"this run was started with another {'; '.join(changed)}; results may differ in rounding. See {file}"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        draft_of(file).write_text(json.dumps([*starts, now], indent=1) + "\n")
        replace(draft_of(file), file)


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Describe what differs between two starts of a run.

    Args:
        before: Entry of the earlier start.
        now: Entry of the later start.

    Returns:
        One text per difference; packages come first.

    >>> changes({"seed": 0, "packages": {"torch": "2.7"}}, {"seed": 1, "packages": {"torch": "2.8"}})
    ['torch (2.7, now 2.8)', 'seed (0, now 1)']
    """
    before, now = ({name: start.get(name) for name in COMPARED} for start in (before, now))
    packages = [start.pop("packages") or {} for start in (before, now)]
    names = sorted(packages[0].keys() | packages[1].keys())
    pairs = [(name, packages[0].get(name), packages[1].get(name)) for name in names]
    pairs += [(name, before[name], now[name]) for name in before]
    return [f"{name} ({old}, now {new})" for name, old, new in pairs if old != new]


def _describe(trainer: Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.orig_argv[1:]]),
        "folder": os.getcwd(),
        "host": platform.node(),
        "resumed_from": trainer.ckpt_path and str(trainer.ckpt_path),
        "seed": int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED")) else None,
        "world_size": trainer.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": (_git("status", "--porcelain", "--untracked-files=no") or "").splitlines(),
        "packages": {one.metadata["Name"]: one.version for one in distributions()},
    }


def _git(*arguments: str) -> str | None:
    """Run git in the project's folder; None if it is not a clone, or git is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip() if done.returncode == 0 else None
