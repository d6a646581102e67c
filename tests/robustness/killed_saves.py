"""Saves that are killed at random moments: what is left has to load, and the next start has to tidy up.

    OMP_NUM_THREADS=1 python -m tests.robustness.killed_saves --kills 50 --folders runs /dev/shm

A process saves one version after the other, without a pause, and is killed. Then the newest checkpoint is looked for as
`--resume auto` does, or the export is loaded, and every tensor in it has to be of one version. Sharded checkpoints are
written by two processes that are killed one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from rich.console import Console
from safetensors.torch import load_file
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers.utils.logging import disable_progress_bar

from descore.atomic import complete_path, draft_of, sweep
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.runtime.checkpoints import AtomicCheckpointIO
from descore.runtime.resume import find_checkpoint
from descore.runtime.sharding import ShardedStrategy
from tests.helpers.measuring import result_table
from tests.robustness.small_runs import kill, read_checkpoint

TENSORS, NUMBERS = 8, 250_000
CHECKPOINT = "version_0/checkpoints/last.ckpt"


def state(version: int) -> dict[str, Any]:
    """8 MB of one number, and what is read of every checkpoint."""
    progress = {"optimizer": {"step": {"total": {"completed": version}}}}
    loops = {"fit_loop": {"epoch_loop.automatic_optimization.optim_progress": progress}}
    weights = {f"{index}": torch.full((NUMBERS,), float(version)) for index in range(TENSORS)}
    return {"global_step": version, "loops": loops, "half_accumulated": False, "state_dict": weights}


def save_files(folder: Path, first: int, *_: object) -> None:
    for version in count(first):
        AtomicCheckpointIO().save_checkpoint(state(version), folder / CHECKPOINT)


def save_shards(folder: Path, first: int, rank: int, store: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "GROUP_RANK": "0"}
    strategy = ShardedStrategy()
    strategy.cluster_environment = TorchElasticEnvironment()
    mesh = init_device_mesh("cpu", (2,))
    for version in count(first):
        checkpoint = state(version)
        shards = {name: distribute_tensor(t, mesh, [Shard(0)]) for name, t in checkpoint["state_dict"].items()}
        strategy.save_checkpoint(checkpoint | {"state_dict": shards}, folder / CHECKPOINT)


def save_exports(folder: Path, first: int, *_: object) -> None:
    model = RewardModel.create(ModelSettings("tiny", PromptTemplate.read("conf/prompts/rendered.txt").text))
    for version in count(first):
        nn.init.constant_(model.head.weight, version)
        nn.init.constant_(model.base.get_input_embeddings().weight, version)
        model.save_pretrained(folder / "export")


def read_latest(folder: Path) -> set[float]:
    """Return the numbers in the newest checkpoint."""
    found = find_checkpoint(folder)
    if found is None:
        return set()
    checkpoint = read_checkpoint(found.path)
    return numbers(checkpoint["state_dict"].values()) | {float(checkpoint["global_step"])}


def read_export(folder: Path) -> set[float]:
    """Return the numbers in the export, which the reader of exports has to accept."""
    export = complete_path(folder / "export")
    if not export.exists():
        return set()
    RewardModel.from_pretrained(str(folder / "export"))
    json.loads((export / "descore.json").read_text())
    tensors = load_file(export / "reward.safetensors")["head.weight"]
    backbone = load_file(export / "backbone/model.safetensors")
    return numbers([tensors, backbone["model.language_model.embed_tokens.weight"]])


def numbers(tensors: Any) -> set[float]:
    return {number for tensor in tensors for number in torch.unique(tensor).tolist()}


@dataclass(frozen=True)
class Kind:
    """What is saved: by whom, where, and how it is read."""

    save: Callable[..., None]
    read: Callable[[Path], set[float]]
    target: str
    processes: int = 1


KINDS = {
    "one file": Kind(save_files, read_latest, CHECKPOINT),
    "sharded folder": Kind(save_shards, read_latest, CHECKPOINT, processes=2),
    "export": Kind(save_exports, read_export, "export"),
}


def save(kind: Kind, *args: Any) -> None:
    os.setsid()
    kind.save(*args)


def kill_once(kind: Kind, folder: Path, first: int, delay: float) -> None:
    """Start to save, and kill some time after the first draft is there."""
    fork = get_context("fork").Process
    with tempfile.TemporaryDirectory() as store:
        ranks = range(kind.processes)
        processes = [fork(target=save, args=(kind, folder, first, rank, f"{store}/store")) for rank in ranks]
        for process in processes:
            process.start()
        draft = draft_of(folder / kind.target)
        before = draft.stat().st_mtime if draft.exists() else 0.0
        while all(process.is_alive() for process in processes):
            with suppress(FileNotFoundError):
                if draft.stat().st_mtime > before:
                    break
            time.sleep(0.0002)
        time.sleep(delay)
        if not all(process.is_alive() for process in processes):
            raise RuntimeError("expected processes that save without an end, got one that failed: see above")
        kill(processes)


def measure(kind: Kind, folder: Path, options: argparse.Namespace) -> tuple[int, int, int]:
    """Return after how many kills all was well, how many fell on a save, and the files left after a start."""
    dice, version, well, amid = random.Random(options.seed), 0, 0, 0
    for _ in range(options.kills):
        kill_once(kind, folder, version + 1, dice.uniform(0, options.window))
        with ProcessPoolExecutor(1, get_context("fork")) as reader:  # what has read a model cannot fork another writer
            found = reader.submit(kind.read, folder).result()
        amid += draft_of(folder / kind.target).exists()
        well += (len(found) == 1 and min(found) >= version) or (not found and version == 0)
        version = int(max(found, default=0))
    sweep(folder)
    return well, amid, sum(path.suffix in {".partial", ".old"} for path in folder.rglob(".*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills of each kind, on each filesystem")
    parser.add_argument("--folders", type=Path, nargs="+", default=[Path("runs")], help="where to save: filesystems")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="what to save")
    parser.add_argument("--window", type=float, default=0.3, help="seconds from the first draft to the latest kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    columns = ("saved", "filesystem", "kills", "of them amid a save", "loadable", "files left after a start")
    table, failed = result_table(*columns, words=columns[:2], markdown=True), 0
    for parent in options.folders:
        parent.mkdir(parents=True, exist_ok=True)
        for name in options.kinds:
            kind = KINDS[name]
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                well, amid, left = measure(kind, Path(folder), options)
            failed += options.kills - well + left
            row = (name, str(parent), f"{options.kills}", f"{amid}", f"{well}", f"{left}")
            print(*row, sep=" | ", flush=True)
            table.add_row(*row)
    Console(width=120).print(table)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
