"""Saves that are killed: what is left loads and is of one version, and the next start removes the drafts.

A process saves one version after the other, without a pause, and is killed at a random moment. Then the newest
checkpoint is looked for as `--resume auto` does, or the export is loaded. Sharded checkpoints are written by two ranks.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment
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
from descore.runtime.fsdp2 import ShardedStrategy
from descore.runtime.resume import find_checkpoint
from tests.helpers.comparing import read_checkpoint
from tests.helpers.killing import num_kills
from tests.helpers.ranks import CONTEXT, kill

KILLS = num_kills(3)
"""Kills of each kind of save, on each filesystem."""
WINDOW = 0.3
"""Seconds from the first draft to the latest kill."""
TENSORS, NUMBERS = 8, 250_000
CHECKPOINT = "version_0/checkpoints/last.ckpt"

slow = pytest.mark.slow


def state(version: int) -> dict[str, Any]:
    """Return 8 MB of one number, and what is read of every checkpoint."""
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
    model = RewardModel.create(ModelSettings("tiny", PromptTemplate.read("rendered").text))
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
    """Return the numbers in the export, which has to load."""
    export = complete_path(folder / "export")
    if not export.exists():
        return set()
    RewardModel.from_pretrained(str(export))
    head = load_file(export / "reward.safetensors")["head.weight"]
    return numbers([head, load_file(export / "backbone/model.safetensors")["model.language_model.embed_tokens.weight"]])


def numbers(tensors: Iterable[torch.Tensor]) -> set[float]:
    return {number for tensor in tensors for number in torch.unique(tensor).tolist()}


@dataclass(frozen=True)
class Kind:
    """What is saved: by which function and how many ranks, where, and how it is read."""

    save: Callable[..., None]
    read: Callable[[Path], set[float]]
    target: str
    ranks: int = 1


KINDS = {
    "one file": Kind(save_files, read_latest, CHECKPOINT),
    "sharded folder": Kind(save_shards, read_latest, CHECKPOINT, ranks=2),
    "export": Kind(save_exports, read_export, "export"),
}


def save(kind: Kind, *args: Any) -> None:
    os.setpgrp()
    torch.set_num_threads(1)
    disable_progress_bar()
    kind.save(*args)


def kill_once(kind: Kind, folder: Path, first: int, delay: float) -> None:
    """Start to save, and kill some time after the first draft is there."""
    with tempfile.TemporaryDirectory() as store:
        ranks = [
            CONTEXT.Process(target=save, args=(kind, folder, first, rank, f"{store}/store"))
            for rank in range(kind.ranks)
        ]
        for rank in ranks:
            rank.start()
        draft = draft_of(folder / kind.target)
        before = draft.stat().st_mtime if draft.exists() else 0.0
        while all(rank.is_alive() for rank in ranks):
            with suppress(FileNotFoundError):
                if draft.stat().st_mtime > before:
                    break
            time.sleep(0.0002)
        time.sleep(delay)
        assert all(rank.is_alive() for rank in ranks), "a rank failed: see above"
        kill(ranks)


@pytest.fixture(params=["disk", pytest.param("/dev/shm", marks=slow)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on the disk, and one in memory: two filesystems."""
    if request.param == "disk":
        yield tmp_path
        return
    if not Path(request.param).is_dir():
        pytest.skip("this system has no /dev/shm")
    with tempfile.TemporaryDirectory(dir=request.param) as name:
        yield Path(name)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", ["one file", pytest.param("sharded folder", marks=slow), pytest.param("export", marks=slow)]
)
def test_what_a_killed_save_leaves_is_one_whole_version(folder: Path, name: str) -> None:
    kind = KINDS[name]
    dice, version, amid = random.Random(0), 0, 0
    for _ in range(KILLS):
        kill_once(kind, folder, version + 1, dice.uniform(0, WINDOW))
        amid += draft_of(folder / kind.target).exists()
        found = kind.read(folder)
        assert len(found) == 1 or (not found and version == 0), found
        assert max(found, default=0) >= version
        version = int(max(found, default=0))
    print(f"{KILLS} kills, {amid} of them amid a save")
    sweep(folder)
    assert not [path for path in folder.rglob(".*") if path.suffix in {".partial", ".old"}]
