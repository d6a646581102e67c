"""The launch files: nodes that meet, runs that are asked to leave, and the exit code that schedulers requeue on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.ranks import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # each rank imports everything: minutes on a busy machine
SHARDED = ("-c", "conf/overlay/fsdp.yaml", "--trainer.precision", "32-true")
NODES = 2


@pytest.fixture
def start(tmp_path: Path, build) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a launch file, with arguments and environment, for a few steps; returns the process.

    What is left of its session at the end of the test is killed.
    """
    jobs: list[subprocess.Popen[bytes]] = []
    build(max_thought_tokens=6).save_pretrained(str(tmp_path / "start"))

    def launch(file: str, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
        command = ["bash", f"conf/launch/{file}", "-c", "conf/stage1.yaml", *SHARDED, "--trainer.accelerator", "cpu"]
        command += ["--model.backbone", str(tmp_path / "start/backbone"), "--trainer.max_steps", "4"]
        command += ["--trainer.logger.save_dir", str(tmp_path), "--data.root", str(tmp_path / "rendered")]
        command += ["--data.num_train", "12", "--data.num_val", "4"]  # three batches an epoch
        command += ["--data.batch_size", "2", "--data.num_workers", "0"]
        command += ["--trainer.limit_val_batches", "0", "--trainer.enable_model_summary", "false", *overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        jobs.append(subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipe))
        return jobs[-1]

    yield launch
    for job in jobs:
        subprocess.run(["pkill", "-KILL", "--session", str(job.pid)], check=False)


def asks(step: int) -> tuple[str, ...]:
    """Ask the processes that work for a run to leave, in a step."""
    ask = ("--trainer.callbacks+=tests.helpers.killing.Ask", f"--trainer.callbacks.step={step}")
    return (*ask, "--trainer.callbacks.number=10")


def ends(job: subprocess.Popen[bytes]) -> tuple[int, str]:
    output = job.communicate(timeout=500)[0].decode()
    return job.returncode, output


def exported(run: Path) -> bool:
    return (run / "stage1/version_0/export/last/descore.json").is_file()


def test_two_nodes_of_torchrun_meet_leave_and_resume(tmp_path: Path, start) -> None:
    """Only the process of the first node is asked to leave; both launch files end with 143, and the run is resumed."""
    for step, code in ((1, 143), (9, 0)):
        meet = {"NODES": "2", "GPUS": "1", "HEAD": f"localhost:{free_port()}"}
        jobs = [start("torchrun.sh", *asks(step), "--resume", "auto", **meet) for _ in range(NODES)]
        codes, outputs = zip(*(ends(job) for job in jobs), strict=True)
        assert codes == (code, code), outputs
    assert sum("MEMBER: 2/2" in output for output in outputs) == 1
    assert any("last.ckpt at step 2" in output for output in outputs)
    assert exported(tmp_path)


def test_a_signal_to_torchrun_is_passed_on(tmp_path: Path, start) -> None:
    """As a scheduler sends it: to what it has started, and to nothing else."""
    ask = (*asks(1), "--trainer.callbacks.launcher=true")
    code, output = ends(start("torchrun.sh", *ask, NODES="1", GPUS="2", HEAD=f"localhost:{free_port()}"))
    assert code == 143, output
    assert "resume from" in output


def test_slurm_requeues_a_run_that_its_signal_reaches(tmp_path: Path, start) -> None:
    slurm = {"SLURM_JOB_ID": "1234567", "SLURM_NNODES": str(NODES), "SLURM_NTASKS_PER_NODE": "1"}
    slurm |= {"SLURM_NODELIST": "localhost", "PATH": f"{ROOT / 'tests/helpers/slurm'}:{os.environ['PATH']}"}
    code, output = ends(start("slurm.sh", *asks(1), **slurm, MASTER_PORT=str(free_port())))
    assert code == 143, output
    assert output.count("scontrol") == 1
    assert "scontrol requeue 1234567" in output
    code, output = ends(start("slurm.sh", **slurm, MASTER_PORT=str(free_port())))
    assert code == 0, output
    assert "last.ckpt at step 2" in output
    assert "scontrol" not in output
    assert exported(tmp_path)
