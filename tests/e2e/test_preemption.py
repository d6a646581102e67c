"""A run that is asked to leave, and goes on by itself, ends as one left alone does, in what it logged too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.finished_runs import exported_weights, logged_points

ROOT = Path(__file__).parents[2]
SHARDED = ("-c", "conf/overlay/fsdp.yaml", "--trainer.precision", "32-true", "--trainer.devices", "2")
SHARDED += ("--data.batch_size", "2")  # and so as many steps as one process takes


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rendered")


def command(run: Path, rendered: Path, *overrides: str) -> list[str]:
    """Twelve steps of conf/stage1.yaml over two epochs, validated twice an epoch."""
    return [
        *(sys.executable, "-m", "descore.train", "fit", "-c", "conf/stage1.yaml"),
        *("--trainer.logger.save_dir", str(run), "--trainer.log_every_n_steps", "1", "--data.root", str(rendered)),
        *("--data.num_train", "24", "--data.num_val", "4", "--data.batch_size", "4", "--data.num_workers", "2"),
        *("--model.own_thought_pairs", "2", "--model.max_thought_tokens", "60", "--trainer.val_check_interval", "3"),
        *("--trainer.enable_model_summary", "false", "--trainer.max_epochs", "2"),
        *overrides,
        *("--trainer.accelerator", "cpu"),
    ]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    threads = {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        arguments, cwd=ROOT, env=os.environ | threads, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True
    )


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of all scalars but those of the clock; sorted as TensorBoard shows them."""
    points = logged_points(run)
    tags = [tag for tag in points if tag.startswith(("train/", "val/", "grad/"))]
    return {tag: points[tag] for tag in tags if "second" not in tag and "wait" not in tag}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return exported_weights(run / "export/last")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), SHARDED], ids=["one", "two"])
def test_a_run_asked_to_leave_goes_on_as_if_it_never_had(
    tmp_path: Path, rendered: Path, options: tuple[str, ...]
) -> None:
    whole = start(*command(tmp_path / "whole", rendered, *options))
    output = whole.communicate(timeout=200)[0].decode()
    assert whole.returncode == 0, output[-3000:]
    run = tmp_path / "asked/stage1/version_0"
    resume = (*options, "--resume", "auto")
    for step, number, validating in ((1, signal.SIGTERM, False), (2, signal.SIGTERM, False), (6, signal.SIGUSR1, True)):
        ask = ("--trainer.callbacks+=tests.helpers.killing.Ask", f"--trainer.callbacks.step={step}")
        ask += (
            f"--trainer.callbacks.number={int(number)}",
            f"--trainer.callbacks.validating={str(validating).lower()}",
        )
        asked = start(*command(tmp_path / "asked", rendered, *resume, *ask))
        output = asked.communicate(timeout=100)[0].decode()
        assert asked.returncode == 143, output[-3000:]
    last = start(*command(tmp_path / "asked", rendered, *resume))
    output = last.communicate(timeout=200)[0].decode()
    assert last.returncode == 0, output[-3000:]
    ours, theirs = weights(tmp_path / "whole/stage1/version_0"), weights(run)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert logged(run) == logged(tmp_path / "whole/stage1/version_0")
    assert [path.name for path in (tmp_path / "asked/stage1").iterdir()] == ["version_0"]
