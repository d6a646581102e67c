"""Runs that are killed and resumed end as runs that are left alone, bit for bit; a broken recipe is noticed.

SIGKILL falls on a run and all that it has started. The run resumes by `--resume auto`, from a checkpoint of every step.
Compared are the whole last checkpoint (weights, moments, schedule, position in the data, counters, callbacks and the
best score), every exported file, the list of files, and what TensorBoard shows. Each of the recipes that are broken on
purpose has to show a difference between a run that is killed and one that is not.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.utils.data import DataLoader

from data_modules.preference import PreferencePairDataModule
from descore.runtime.resume import find_checkpoint
from tests.helpers.comparing import differences
from tests.helpers.killing import kill_at, num_kills
from tests.helpers.ranks import kill
from tests.helpers.small_runs import EVERY_STEP, Run

KILLS = num_kills(1)
"""Kills at random moments, of each setting."""
KILLS_OF_A_RUN = 3
RESUME = ("--resume", "auto")

WORKERS = ("--data.num_workers", "2")
ACCUMULATED = ("--trainer.accumulate_grad_batches", "2")
NO_VALIDATION = ("--trainer.limit_val_batches", "0")
SETTINGS = [
    pytest.param(1, (), 1, id="stage1-no-workers"),
    pytest.param(1, WORKERS, 1, id="stage1-2-workers"),
    pytest.param(1, ACCUMULATED, 1, id="stage1-2-batches-a-step"),
    pytest.param(1, (*WORKERS, *ACCUMULATED, *NO_VALIDATION), 1, id="stage1-2-workers-2-batches-a-step-no-validation"),
    pytest.param(1, (), 2, id="stage1-2-ranks"),
    pytest.param(2, (), 1, id="stage2-no-workers"),
    pytest.param(2, WORKERS, 1, id="stage2-2-workers"),
    pytest.param(2, (*WORKERS, *NO_VALIDATION), 1, id="stage2-2-workers-no-validation"),
    pytest.param(2, (), 2, id="stage2-2-ranks"),
]
MOMENTS = {
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
"""Hook and optimizer step of each moment, in the order of the run: an epoch has 6 steps of stage 1, 12 of stage 2."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pairs, and an export of stage 1."""
    folder = tmp_path_factory.mktemp("data")
    start = Run(1, folder / "stage1", folder, ("--trainer.max_steps", "1", *NO_VALIDATION))
    start.finish()
    shutil.copytree(start.version / "export/last", folder / "start")
    return folder


@pytest.fixture(scope="module")
def left_alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Run, float]]:
    """Let a run of some setting end once; returns it and the seconds it took."""

    @cache
    def finish(stage: int, options: tuple[str, ...], ranks: int) -> tuple[Run, float]:
        run = Run(stage, tmp_path_factory.mktemp("whole"), data, (*options, *EVERY_STEP), ranks)
        began = time.monotonic()
        run.finish()
        return run, time.monotonic() - began

    return finish


def kill_at_random(run: Run, seconds: float, kills: int, dice: random.Random) -> list[int]:
    """Kill a run some times, each at a random moment of the time it takes; return the steps it had saved by then."""
    steps = []
    for _ in range(kills):
        ranks, end = run.start(*RESUME), time.monotonic() + dice.uniform(0.2, 0.9) * seconds
        while time.monotonic() < end and any(rank.is_alive() for rank in ranks):
            time.sleep(0.01)
        if not any(rank.is_alive() for rank in ranks):
            break
        kill(ranks)
        found = find_checkpoint(run.folder / f"stage{run.stage}")
        steps.append(found.global_step if found else 0)
    run.finish(*RESUME)
    return steps


def kill_in_hook(run: Run, hook: str, step: int) -> None:
    ranks = run.start(*RESUME, *kill_at(hook, step))
    for rank in ranks:
        rank.join()
    assert ranks[0].exitcode == -9, run.log.read_text()[-3000:]
    kill(ranks)


@pytest.mark.parametrize(("stage", "options", "ranks"), SETTINGS)
def test_a_run_killed_at_random_moments_ends_as_one_left_alone(
    tmp_path: Path, left_alone, stage: int, options: tuple[str, ...], ranks: int
) -> None:
    whole, seconds = left_alone(stage, options, ranks)
    dice, left = random.Random(f"{stage} {options} {ranks}"), KILLS
    for number in itertools.count():
        run = replace(whole, folder=tmp_path / f"killed{number}")
        steps = kill_at_random(run, seconds, min(left, KILLS_OF_A_RUN), dice)
        print("killed at steps", steps)
        assert not differences(whole.version, run.version)
        if (left := left - len(steps)) <= 0:
            break
        seconds *= 1.0 if steps else 0.7  # it ended before its kill: the machine is faster now


@pytest.mark.parametrize("options", [(), WORKERS], ids=["no-workers", "2-workers"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_killed_at_named_moments_ends_as_one_left_alone(
    tmp_path: Path, left_alone, stage: int, options: tuple[str, ...]
) -> None:
    whole, _ = left_alone(stage, options, 1)
    run = replace(whole, folder=tmp_path)
    for hook, step in MOMENTS[stage].values():
        kill_in_hook(run, hook, step)
    run.finish(*RESUME)
    assert not differences(whole.version, run.version)


def plain_loader() -> None:
    def train_dataloader(self: PreferencePairDataModule) -> DataLoader:
        collate = partial(self.trainer.lightning_module.collator(training=True), 0)
        return DataLoader(self.train_pairs, self.batch_size, shuffle=True, collate_fn=collate)

    mock.patch.object(PreferencePairDataModule, "train_dataloader", train_dataloader).start()


def position_dropped() -> None:
    mock.patch("data_modules.loader.PairLoader.load_state_dict").start()


def order_of_global_rng() -> None:
    mock.patch("data_modules.loader.generator", return_value=torch.default_generator).start()


def moments_dropped() -> None:
    connector = "lightning.pytorch.trainer.connectors.checkpoint_connector._CheckpointConnector"
    mock.patch(f"{connector}.restore_optimizers").start()


def masks_of_global_rng() -> None:
    mock.patch("descore.inputs.collate.uniform", side_effect=lambda *_: float(torch.rand(2)[1])).start()


def thoughts_of_global_rng() -> None:
    mock.patch("descore.thinking.think.generator", return_value=torch.default_generator).start()


def estimated_steps_read() -> None:
    steps = "descore.modules.system.RewardSystem._schedule_steps"
    mock.patch(steps, lambda self: (0, int(self.trainer.estimated_stepping_batches))).start()


BROKEN = [plain_loader, position_dropped, order_of_global_rng, moments_dropped]
BROKEN_BY_STAGE = [(1, broken) for broken in (*BROKEN, masks_of_global_rng, estimated_steps_read)]
BROKEN_BY_STAGE += [(2, broken) for broken in (*BROKEN, thoughts_of_global_rng)]


@pytest.mark.parametrize(("stage", "broken"), BROKEN_BY_STAGE)
def test_a_broken_recipe_is_noticed(tmp_path: Path, data: Path, stage: int, broken: Callable[[], None]) -> None:
    """A part of the recipe is broken, in a run that resumes in its second epoch and in one that is not killed."""
    short = ("--trainer.max_epochs", "2") if stage == 1 else ("--trainer.max_steps", "24")
    whole = Run(stage, tmp_path / "whole", data, (*NO_VALIDATION, *short, *EVERY_STEP), prepare=broken)
    whole.finish()
    killed = replace(whole, folder=tmp_path / "killed")
    kill_in_hook(killed, *MOMENTS[stage]["after a save"])
    killed.finish(*RESUME)
    found = differences(whole.version, killed.version)
    print(f"{len(found)} differences, {sum('.state_dict.' in name or 'export' in name for name in found)} in weights")
    assert found
