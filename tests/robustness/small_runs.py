"""Small runs of both stages, forked from a process that has imported everything, to be killed and compared."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from descore.runtime.sharding import METADATA
from descore.train import main
from tests.helpers.finished_runs import logged_points

for name in ("callbacks.export", "data_modules.rendered", "descore.modules.cold_start", "descore.modules.rl"):
    import_module(name)  # seconds that each run would take

SHARDED = ("-c", "conf/overlay/fsdp.yaml", "--trainer.precision", "32-true", "--trainer.devices", "2")
TINY = {
    1: ("--trainer.max_epochs", "3", "--trainer.val_check_interval", "3"),
    2: (
        *("--model.num_thoughts", "2", "--model.mini_batch_pairs", "1", "--model.temperature", "4"),
        *("--trainer.max_steps", "36", "--trainer.val_check_interval", "4"),
    ),
}
"""Three epochs of six batches; stage 2 takes two optimizer steps for each, on thoughts that no model is sure of."""

EVERY_STEP = ("--trainer.callbacks+=callbacks.last_checkpoint.LastCheckpoint", "--trainer.callbacks.every_n_steps=1")


def nothing() -> None:
    """Leave a run as it is."""


@dataclass(frozen=True)
class Run:
    """A small run of a stage.

    Attributes:
        stage: 1 or 2.
        folder: Where it writes.
        data: Where the rendered pairs are, and the export that stage 2 begins with.
        options: Arguments beyond those of every run.
        processes: Ranks; two of them share the model.
        mutate: Breaks something in its processes, before they train.
    """

    stage: int
    folder: Path
    data: Path
    options: tuple[str, ...] = ()
    processes: int = 1
    mutate: Callable[[], None] = nothing

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.folder / "log"

    @property
    def version(self) -> Path:
        """The folder that its last process wrote to."""
        versions = (self.folder / f"stage{self.stage}").glob("version_*")
        return max(versions, key=lambda path: int(path.name.removeprefix("version_")))

    def start(self, *more: str) -> list[ForkProcess]:
        """Begin, or go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fork = get_context("fork").Process
        arguments = [*self._arguments(), *more]
        ranks = [fork(target=_train, args=(arguments, place, self.log, self.mutate)) for place in self._places()]
        for rank in ranks:
            rank.start()
        return ranks

    def finish(self, *more: str) -> None:
        """Go on to the end.

        Raises:
            RuntimeError: If a process fails.
        """
        ranks = self.start(*more)
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            raise RuntimeError(f"expected exit code 0 of {self.folder}, got:\n{self.log.read_text()[-3000:]}")

    def _arguments(self) -> list[str]:
        return [
            *("fit", "-c", f"conf/stage{self.stage}.yaml", *(SHARDED if self.processes > 1 else ())),
            *("--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"),
            *("--trainer.logger.save_dir", str(self.folder), "--trainer.log_every_n_steps", "1"),
            *("--data.root", str(self.data / "rendered"), "--data.num_train", "12", "--data.num_val", "2"),
            *("--data.batch_size", str(2 // self.processes), "--data.num_workers", "0"),
            *("--model.own_thought_pairs", "1", "--model.max_thought_tokens", "8", *TINY[self.stage]),
            *(("--model.pretrained", str(self.data / "start")) if self.stage == 2 else ()),
            *self.options,
        ]

    def _places(self) -> list[dict[str, str]]:
        """Environment of each rank, as torchrun would set it."""
        if self.processes == 1:
            return [{}]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        world = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "run", "GROUP_RANK": "0"}
        world |= {"WORLD_SIZE": str(self.processes), "LOCAL_WORLD_SIZE": str(self.processes)}
        return [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(self.processes)]


def kill(processes: list[ForkProcess]) -> None:
    """Kill processes with all that they have started, at once, as a cluster would."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
    for process in processes:
        process.join()


def _train(arguments: list[str], place: dict[str, str], log: Path, mutate: Callable[[], None]) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.environ |= place
    mutate()
    main(arguments)


class KillAt(Checkpoint):
    """Kills its process, after all other callbacks are done.

    Args:
        hook: The hook to be killed in.
        step: The optimizer steps that are then done.
    """

    def __init__(self, hook: str, step: int) -> None:
        self.step = step
        setattr(self, hook, self._kill)

    def _kill(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGKILL)


def differences(ours: Path, theirs: Path) -> list[str]:
    """Name all that differs in the files, last checkpoints, exports and logs of two runs, but for the clock.

    Args:
        ours: Folder `version_<n>` of a run.
        theirs: That of another.
    """
    last = (_without(read_checkpoint(run / "checkpoints/last.ckpt"), str(run)) for run in (ours, theirs))
    found = list(_unequal(*last, "checkpoint"))
    files = [{str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()} for run in (ours, theirs)]
    names = {name for name in files[0].keys() ^ files[1].keys() if "tfevents" not in name}
    found += [f"only one has the file {name}" for name in names]
    exported = [name for name in files[0].keys() & files[1].keys() if name.startswith("export/")]
    found += [name for name in exported if files[0][name].read_bytes() != files[1][name].read_bytes()]
    return found + list(_unequal(logged(ours), logged(theirs), "log"))


def read_checkpoint(path: Path) -> Any:
    """Load all of a checkpoint, a file or a folder of shards."""
    if not path.is_dir():
        return torch.load(path, weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        dcp_to_torch_save(path, whole := Path(folder) / "whole.pt")
        return torch.load(whole, weights_only=True) | torch.load(path / METADATA, weights_only=True)


def _without(value: Any, folder: str) -> Any:
    """Leave out the run's own folder, in all paths, and what Lightning never restores since nothing reads it."""
    if isinstance(value, dict):
        kept = (key for key in value if key != "current_score")
        return {_without(key, folder): _without(value[key], folder) for key in kept}
    if isinstance(value, list | tuple):
        return [_without(one, folder) for one in value]
    return value.replace(folder, "") if isinstance(value, str) else value


def _unequal(ours: Any, theirs: Any, name: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        yield from (f"{name}: only one has {key}" for key in ours.keys() ^ theirs.keys())
        for key in ours.keys() & theirs.keys():
            yield from _unequal(ours[key], theirs[key], f"{name}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(one, other, f"{name}.{index}")
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if not torch.equal(ours, theirs):
            yield name
    elif ours != theirs and not (isinstance(ours, float) and math.isnan(ours) and math.isnan(theirs)):
        yield f"{name}: {ours} and {theirs}"


def logged(version: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of all scalars but those of the clock, as TensorBoard shows them."""
    left_out = ("second", "wait", "time/", "hp_metric")
    points = logged_points(version)
    return {tag: found for tag, found in points.items() if not any(word in tag for word in left_out)}
