"""A rank that dies ends its job at once, with its own error shown, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.ranks import ROOT, free_port

SHARDED = ("-c", "conf/overlay/fsdp.yaml", "--trainer.precision", "32-true")
DDP = ("-c", "conf/overlay/ddp.yaml", "--trainer.precision", "32-true")
LIGHTNING = (sys.executable,)
TORCHRUN = (str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", "--rdzv-backend", "c10d")
SECONDS = 60
"""A job has this long to end after the death. torchrun gives ranks that do not listen 30 seconds."""


@pytest.fixture(scope="module")
def export(build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stage 1 would hand over."""
    folder = tmp_path_factory.mktemp("stage1") / "export"
    build(max_thought_tokens=6).save_pretrained(str(folder))
    return folder


def command(run: Path, export: Path, stage: str, overlay: tuple[str, ...]) -> list[str]:
    """A few steps of a stage on two ranks."""
    source = (
        ("--model.pretrained", str(export)) if stage == "stage2" else ("--model.backbone", str(export / "backbone"))
    )
    return [
        *("-m", "descore.train", "fit", "-c", f"conf/{stage}.yaml", *overlay, "--trainer.accelerator", "cpu"),
        *("--trainer.devices", "2", "--trainer.logger.save_dir", str(run), "--trainer.max_steps", "4", *source),
        *(
            "--data.root",
            str(run / "rendered"),
            "--data.num_train",
            "8",
            "--data.num_val",
            "4",
            "--data.batch_size",
            "2",
        ),
        *("--data.num_workers", "1", "--trainer.val_check_interval", "2", "--trainer.enable_model_summary", "false"),
    ]


def processes_of(run: Path) -> list[str]:
    """Command lines of the processes that work for a run."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True, text=True).stdout.splitlines()
    return [line for line in lines if str(run) in line]


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ranks only follow a launcher that ends in good order")
@pytest.mark.parametrize("launcher", [LIGHTNING, TORCHRUN], ids=["lightning", "torchrun"])
@pytest.mark.parametrize(
    ("rank", "place", "number", "overlay"),
    [
        pytest.param(1, "step", 0, SHARDED, id="1-raises"),
        pytest.param(0, "step", 0, SHARDED, id="0-raises"),
        pytest.param(1, "step", 0, DDP, id="1-raises-ddp"),
        pytest.param(1, "step", signal.SIGKILL, SHARDED, id="1-is-killed"),
        pytest.param(0, "step", signal.SIGKILL, SHARDED, id="0-is-killed"),
        pytest.param(1, "validation", 0, SHARDED, id="1-raises-in-validation"),
        pytest.param(1, "thoughts", 0, SHARDED, id="1-raises-in-thoughts"),
    ],
)
def test_a_rank_that_dies_ends_the_job(
    tmp_path: Path,
    export: Path,
    launcher: tuple[str, ...],
    rank: int,
    place: str,
    number: int,
    overlay: tuple[str, ...],
) -> None:
    stage = "stage2" if place == "thoughts" else "stage1"
    fail = ("--trainer.callbacks+=tests.helpers.killing.Fail", f"--trainer.callbacks.rank={rank}")
    fail += ("--trainer.callbacks.step=2", f"--trainer.callbacks.place={place}")
    fail += (f"--trainer.callbacks.number={int(number)}", f"--trainer.callbacks.mark={tmp_path / 'mark'}")
    meet = ("--rdzv-endpoint", f"localhost:{free_port()}") if launcher == TORCHRUN else ()
    output = (tmp_path / "output.txt").open("wb")
    job = subprocess.Popen(
        [*launcher, *meet, *command(tmp_path, export, stage, overlay), *fail],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    job.wait(timeout=900)
    said = (tmp_path / "output.txt").read_text()
    assert (tmp_path / "mark").exists(), said[-3000:]
    died = (tmp_path / "mark").stat().st_mtime
    while left := processes_of(tmp_path):
        assert time.time() < died + SECONDS, left
        time.sleep(0.1)
    print(f"{time.time() - died:.1f} s, exit code {job.returncode}")
    assert job.returncode != 0
    if not number:
        assert f"RuntimeError: rank {rank} cannot go on" in said
    elif launcher == TORCHRUN or rank == 1:
        assert "-9" in said
