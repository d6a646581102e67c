"""Runs that are killed at random moments and go on, against runs that are left alone: equal in every bit, or not.

    OMP_NUM_THREADS=1 python -m tests.robustness.kills --stage 1 --kills 24
    OMP_NUM_THREADS=1 python -m tests.robustness.kills --stage 1 --mutations

SIGKILL falls on a run and all that it has started. It goes on by `--resume auto`, from a checkpoint of every step. What
is compared is the whole last checkpoint (weights, moments, schedule, position in the data, counters, callbacks and the
best score), every exported file, what other files there are, and what TensorBoard shows: each step once. A mutation
breaks one part of the recipe, in a run that is killed and in one that is not: here a difference must show.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from rich.console import Console
from torch.utils.data import DataLoader

import descore.inputs.collate
from data_modules.loader import PairLoader
from data_modules.preference import PreferencePairDataModule
from descore.modules.system import RewardSystem
from descore.runtime.resume import find_checkpoint
from tests.helpers.measuring import result_table
from tests.robustness.small_runs import EVERY_STEP, Run, differences, kill

KILLS_OF_A_RUN = 3
COLUMNS = ("stage", "setting", "kills", "number", "steps done", "compared with a run left alone")


@dataclass(frozen=True)
class Setting:
    """How runs are set, and where kills fall beside the random ones, in the order of the run."""

    name: str
    options: tuple[str, ...] = ()
    processes: int = 1
    moments: tuple[str, ...] = ()


WORKERS = ("--data.num_workers", "2")
ACCUMULATED = ("--trainer.accumulate_grad_batches", "2")
NO_VALIDATION = ("--trainer.limit_val_batches", "0")
MOMENTS = ("last batch", "first batch", "after a save", "in validation", "before the export")
SETTINGS = {
    1: [
        Setting("no workers", moments=MOMENTS),
        Setting("2 workers", WORKERS, moments=MOMENTS),
        Setting("2 batches a step", ACCUMULATED),
        Setting("2 workers, 2 batches a step, no validation", (*WORKERS, *ACCUMULATED, *NO_VALIDATION)),
        Setting("2 processes, sharded", processes=2),
    ],
    2: [
        Setting("no workers", moments=MOMENTS),
        Setting("2 workers", WORKERS, moments=MOMENTS),
        Setting("2 workers, no validation", (*WORKERS, *NO_VALIDATION)),
        Setting("2 processes, sharded", processes=2),
    ],
}
HOOKS = {
    1: {
        "last batch": ("on_train_batch_end", 6),
        "first batch": ("on_train_batch_end", 7),
        "after a save": ("on_train_batch_start", 8),
        "in validation": ("on_validation_batch_start", 9),
        "before the export": ("on_validation_end", 18),
    },
    2: {
        "last batch": ("on_train_batch_end", 12),
        "first batch": ("on_train_batch_end", 14),
        "in validation": ("on_validation_batch_start", 16),
        "after a save": ("on_train_batch_start", 18),
        "before the export": ("on_train_batch_end", 36),
    },
}
"""Where each moment is, in optimizer steps: an epoch has 6 of stage 1, and 12 of stage 2."""


def plain_loader() -> None:
    def train_dataloader(self: PreferencePairDataModule) -> DataLoader:  # type: ignore[type-arg]
        collate = partial(self.trainer.lightning_module.collator(training=True), 0)  # type: ignore
        return DataLoader(self.train_pairs, self.batch_size, shuffle=True, collate_fn=collate)  # type: ignore

    PreferencePairDataModule.train_dataloader = train_dataloader  # type: ignore


def position_dropped() -> None:
    PairLoader.load_state_dict = lambda *_: None  # type: ignore


def order_of_global_rng() -> None:
    descore.seeding.generator = lambda *_: torch.default_generator  # type: ignore


def moments_dropped() -> None:
    _CheckpointConnector.restore_optimizers = lambda *_: None  # type: ignore


def masks_of_global_rng() -> None:
    descore.seeding.uniform = lambda *_: float(torch.rand(()))  # type: ignore


def thoughts_of_global_rng() -> None:
    descore.seeding.generator = lambda *_: torch.default_generator  # type: ignore


def estimated_steps_read() -> None:
    RewardSystem._num_steps = lambda self: int(self.trainer.estimated_stepping_batches)  # type: ignore


EVERY_STAGE = [plain_loader, position_dropped, order_of_global_rng, moments_dropped]
MUTATIONS: dict[int, list[Callable[[], None]]] = {
    1: [*EVERY_STAGE, masks_of_global_rng, estimated_steps_read],
    2: [*EVERY_STAGE, thoughts_of_global_rng],
}


def killed_at_random(run: Run, seconds: float, kills: int, dice: random.Random) -> list[int]:
    """Kill a run some times, each at a random moment of the time it takes; return the steps it had behind it then."""
    steps = []
    for _ in range(kills):
        processes, end = run.start("--resume", "auto"), time.monotonic() + dice.uniform(0.1, 0.8) * seconds
        while time.monotonic() < end and any(process.is_alive() for process in processes):
            time.sleep(0.01)
        if not any(process.is_alive() for process in processes):
            break
        kill(processes)
        found = find_checkpoint(run.folder / f"stage{run.stage}")
        steps.append(found.global_step if found else 0)
    run.finish("--resume", "auto")
    return steps


def killed_at(run: Run, hooks: Sequence[tuple[str, int]]) -> list[int]:
    """Kill a run in hooks, one after the other, and let it end."""
    for hook, step in hooks:
        killer = "--trainer.callbacks+=tests.robustness.small_runs.KillAt"
        processes = run.start(
            "--resume", "auto", killer, f"--trainer.callbacks.hook={hook}", f"--trainer.callbacks.step={step}"
        )
        for process in processes:
            process.join()
        if processes[0].exitcode != -9:
            raise RuntimeError(f"expected a kill in {hook} of step {step}, got:\n{run.log.read_text()[-3000:]}")
        kill(processes)
    run.finish("--resume", "auto")
    return [step for _, step in hooks]


def measure(stage: int, options: argparse.Namespace, data: Path, work: Path) -> int:
    """Kill runs of every setting; return how many differ."""
    differing = 0
    table = result_table(*COLUMNS, words=COLUMNS, markdown=True)
    settings = SETTINGS[stage]
    for index, setting in enumerate(settings):
        if options.settings and index not in options.settings:
            continue
        dice = random.Random(f"{options.seed} {stage} {index}")
        plain = Run(stage, work / f"{index}", data, (*setting.options, *EVERY_STEP), setting.processes)
        whole = replace(plain, folder=plain.folder / "whole")
        began = time.monotonic()
        whole.finish()
        seconds = time.monotonic() - began
        share = options.kills // len(settings) + (index < options.kills % len(settings))
        killed: list[tuple[Run, list[int]]] = []
        if setting.moments:
            run = replace(plain, folder=plain.folder / "moments")
            hooks = sorted((HOOKS[stage][moment] for moment in setting.moments), key=lambda hook: hook[1])
            killed.append((run, killed_at(run, hooks)))
        while (left := share - sum(len(steps) for run, steps in killed if run.folder.name != "moments")) > 0:
            run = replace(plain, folder=plain.folder / f"random{len(killed)}")
            killed.append((run, killed_at_random(run, seconds, min(left, KILLS_OF_A_RUN), dice)))
        for run, steps in killed:
            found = differences(whole.version, run.version)
            differing += bool(found)
            at = ", ".join(map(str, steps))
            kind = "named moments" if run.folder.name == "moments" else "random"
            row = (f"{stage}", setting.name, kind, f"{len(steps)}", at, "; ".join(found)[:300] or "identical")
            print(*row, sep=" | ", flush=True)
            table.add_row(*row)
    Console(width=120).print(table)
    return differing


def mutate(stage: int, options: argparse.Namespace, data: Path, work: Path) -> int:
    """Kill a run of every mutation at the start of its second epoch; return how many are not noticed."""
    columns, missed = ("stage", "mutation", "differences", "of them in weights"), 0
    table = result_table(*columns, words=columns, markdown=True)
    short = ("--trainer.max_epochs", "2") if stage == 1 else ("--trainer.max_steps", "24")
    for mutation in MUTATIONS[stage]:
        folder = work / mutation.__name__
        whole = Run(stage, folder / "whole", data, (*NO_VALIDATION, *short, *EVERY_STEP), mutate=mutation)
        whole.finish()
        killed = replace(whole, folder=folder / "killed")
        killed_at(killed, [HOOKS[stage]["first batch"]])
        found = differences(whole.version, killed.version)
        missed += not found
        weights = sum(".state_dict." in name or "export" in name for name in found)
        row = (f"{stage}", mutation.__name__.replace("_", " "), f"{len(found)}", f"{weights}")
        print(*row, sep=" | ", flush=True)
        table.add_row(*row)
    Console(width=120).print(table)
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, choices=[1, 2], help="only this stage")
    parser.add_argument("--kills", type=int, default=24, help="kills at random moments, for each stage")
    parser.add_argument("--settings", type=int, nargs="+", help="numbers of the settings, if not all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--mutations", action="store_true", help="break the recipe, instead")
    options = parser.parse_args()
    torch.set_num_threads(1)  # another number sums in another order
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        start = Run(1, Path(folder) / "start", data, ("--trainer.max_steps", "1", *NO_VALIDATION))
        start.finish()
        shutil.copytree(start.version / "export/last", data / "start")
        for stage in [options.stage] if options.stage else [1, 2]:
            run = mutate if options.mutations else measure
            failed += run(stage, options, data, Path(folder) / f"runs{stage}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
