"""The ranks of a run, forked from a process that has imported everything: they start side by side and at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from descore.train import main

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    *("tests.helpers.ranks", "data_modules.preference", "tensorboard", "callbacks.export", "callbacks.samples"),
    *("descore.modules.cold_start", "descore.modules.rl", "descore.runtime.fsdp2", "callbacks.rollouts"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("qwen2_5_vl", "qwen3_vl")),
])


def train(arguments: Sequence[str], num_ranks: int, output: Path, timeout: float = 280) -> None:
    """Train, as `python -m descore.train` would on every rank; what they print goes to a file."""
    ranks = start(arguments, num_ranks, output)
    for rank in ranks:
        rank.join(timeout)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * num_ranks, output.read_text()[-3000:]


def start(
    arguments: Sequence[str], num_ranks: int, output: Path, prepare: Callable[[], None] | None = None
) -> list[ForkServerProcess]:
    """Start the ranks of a run, each in a process group of its own, after a function that each of them calls."""
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    arguments = [*arguments, "--trainer.devices", str(num_ranks)]
    ranks = [
        CONTEXT.Process(target=_rank, args=(arguments, address | {"LOCAL_RANK": str(rank)}, output, prepare))
        for rank in range(num_ranks)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def kill(processes: Sequence[ForkServerProcess]) -> None:
    """Kill processes at once, with all that they have started, as a cluster would."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def _rank(
    arguments: Sequence[str], environment: dict[str, str], output: Path, prepare: Callable[[], None] | None
) -> None:
    os.setpgrp()
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.environ.update(environment)
    torch.set_num_threads(1)  # another number sums in another order
    if prepare:
        prepare()
    main(list(arguments))
