"""A rollout batch of the embedded default on a machine that is busy: what OpenMP's threads wait for.

    python -m benchmarks.speed.busy

A small model computes many small pieces, with a barrier of all threads after each. Where another process keeps a core,
a thread of OpenMP spins at the barrier while the scheduler keeps the thread that it waits for. Each policy runs in a
process of its own, on a free machine and beside processes that keep every core but one busy; the table gives seconds
and the ratio to the first policy on a free machine. How long a thread spins is set in descore/__init__.py.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table

from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.thinking.think import think
from descore.types import Frames
from descore.video.settings import VideoSettings

UNSET = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
POLICIES: dict[str, dict[str, str]] = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000"},
    # As descore/__init__.py has set it, or whoever started this process.
    "this project's": {name: os.environ[name] for name in UNSET if name in os.environ},
    "no spin": {"GOMP_SPINCOUNT": "0"},
    "spin 6,000": {"GOMP_SPINCOUNT": "6000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
VIDEO = VideoSettings(fps=4, min_frames=8, max_frames=8, min_pixels=2304, max_pixels=2304)


def rollout_batch(num_pairs: int, num_thoughts: int) -> float:
    """Think about every video of a batch, then train on all thoughts; return the seconds of the second time."""
    settings = ModelSettings("tiny", PromptTemplate.read("rendered").text, VIDEO, max_thought_tokens=128)
    model = RewardModel.create(settings)
    generator = torch.Generator().manual_seed(0)
    prefixes = []
    for index in range(2 * num_pairs):
        pixels = torch.randint(256, (8, 3, 48, 48), dtype=torch.uint8, generator=generator)
        frames = Frames(pixels, tuple(range(0, 16, 2)), 8.0, 16)
        prefixes.append(model.processor.prefix(f"A red circle moves left fast, {index}.", frames))
    seconds = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        videos = model.processor.pack(prefixes, [()] * len(prefixes))
        groups = think(model, videos, Sampling(num_thoughts, temperature=1.0))
        for first in range(0, len(prefixes), 8):
            part = slice(first, first + 8)
            branches = model.processor.pack(prefixes[part], [group.thoughts for group in groups[part]])
            forward = model(branches, with_logprobs=True)
            (forward.rewards.sum() + forward.logprobs.sum()).backward()
        seconds = time.perf_counter() - begun
    return seconds


@contextlib.contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """Keep some cores busy."""
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(num_processes)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        pass


def measure(policy: dict[str, str], options: argparse.Namespace) -> float:
    """Run a rollout batch under a policy in a process of its own; return its seconds, at most `--limit`."""
    environment = {key: value for key, value in os.environ.items() if key not in UNSET} | policy
    command = [sys.executable, "-m", "benchmarks.speed.busy", "--child", "--pairs", str(options.pairs)]
    try:
        found = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=options.limit
        )
    except subprocess.TimeoutExpired:
        return float(options.limit)
    return float(found.stdout.split()[-1])


def main() -> None:
    """Measure every policy, free and busy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="pairs of the batch, of 8 thoughts a video (default 10)")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a run is given up (default 120)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(rollout_batch(options.pairs, 8))
        return
    table = Table("policy", "free", "ratio", "busy", "ratio")
    first = 0.0
    for name, policy in POLICIES.items():
        free = measure(policy, options)
        first = first or free
        with busy(max(1, (os.cpu_count() or 2) - 1)):
            loaded = measure(policy, options)
        table.add_row(name, f"{free:.1f} s", f"{free / first:.2f}", f"{loaded:.1f} s", f"{loaded / first:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
