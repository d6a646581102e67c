"""The launch files: nodes that meet, runs that are asked to leave, and the exit code that schedulers requeue on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.ranks import ROOT, free_port

SHARDED = ("-c", "conf/overlay/fsdp.yaml", "--trainer.precision", "32-true")
NODES = 2


@pytest.fixture
def start(tmp_path: Path, build):
    """Start a launch file, with arguments and environment, for a few steps; returns the process."""
    build(max_thought_tokens=6).save_pretrained(str(tmp_path / "start"))

    def launch(file: str, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
        command = ["bash", f"conf/launch/{file}", "-c", "conf/stage1.yaml", *SHARDED, "--trainer.accelerator", "cpu"]
        command += ["--model.backbone", str(tmp_path / "start/backbone"), "--trainer.max_steps", "4"]
        command += ["--trainer.logger.save_dir", str(tmp_path), "--data.root", str(tmp_path / "rendered")]
        command += ["--data.num_train", "12", "--data.num_val", "4"]  # three batches an epoch
        command += ["--data.batch_size", "2", "--data.num_workers", "0"]
        command += ["--trainer.limit_val_batches", "0", "--trainer.enable_model_summary", "false", *overrides]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return launch


def asks(step: int) -> tuple[str, ...]:
    """Ask the processes that work for a run to leave, in a step."""
    ask = ("--trainer.callbacks+=tests.helpers.killing.Ask", f"--trainer.callbacks.step={step}")
    return (*ask, "--trainer.callbacks.number=10")


def ends(job: subprocess.Popen[bytes]) -> tuple[int, str]:
    output = job.communicate(timeout=280)[0].decode()
    return job.returncode, output


def exported(run: Path) -> bool:
    return (run / "stage1/version_0/export/last/descore.json").is_file()


@pytest.mark.slow
def test_two_nodes_of_torchrun_meet_leave_and_go_on(tmp_path: Path, start) -> None:
    """Only the process of the first node is asked to leave; both launch files end with 143, and the run goes on."""
    for step, code in ((1, 143), (9, 0)):
        meet = {"NODES": "2", "GPUS": "1", "HEAD": f"localhost:{free_port()}"}
        jobs = [start("torchrun.sh", *asks(step), "--resume", "auto", **meet) for _ in range(NODES)]
        codes, outputs = zip(*(ends(job) for job in jobs), strict=True)
        assert codes == (code, code), outputs
    assert sum("MEMBER: 2/2" in output for output in outputs) == 1
    assert any("last.ckpt at step 2" in output for output in outputs)
    assert exported(tmp_path)


@pytest.mark.slow
def test_a_signal_to_torchrun_is_passed_on(tmp_path: Path, start) -> None:
    """As a scheduler sends it: to what it has started, and to nothing else."""
    ask = (*asks(1), "--trainer.callbacks.launcher=true")
    code, output = ends(start("torchrun.sh", *ask, NODES="1", GPUS="2", HEAD=f"localhost:{free_port()}"))
    assert code == 143, output
    assert "resume from" in output


@pytest.mark.slow
def test_slurm_requeues_a_run_that_its_signal_reaches(tmp_path: Path, start) -> None:
    slurm = {"SLURM_JOB_ID": str(free_port()), "SLURM_NNODES": str(NODES), "SLURM_NTASKS_PER_NODE": "1"}
    slurm |= {
        "SLURM_NODELIST": "localhost",
        "PATH": f"{Path(__file__).parents[1] / 'helpers' / 'slurm'}:{os.environ['PATH']}",
    }
    code, output = ends(start("slurm.sh", *asks(1), **slurm))
    assert code == 143, output
    assert output.count("scontrol") == 1
    assert f"scontrol requeue {slurm['SLURM_JOB_ID']}" in output
    code, output = ends(start("slurm.sh", **slurm))
    assert code == 0, output
    assert "last.ckpt at step 2" in output
    assert "scontrol" not in output
    assert exported(tmp_path)
