"""Stage 1 from the command line to the exported folder: what moves, what is written, what a kill changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from descore.cli import main as descore
from descore.model.reward_model import RewardModel
from descore.tables.pairs import read_pairs
from descore.train import main
from tests.helpers.comparing import differences
from tests.helpers.finished_runs import exported_weights
from tests.helpers.killing import kill_at
from tests.helpers.small_runs import EVERY_STEP

ROOT = Path(__file__).parents[2]
MERGER_TOO = "{language: 5.0e-4, merger: 5.0e-4, query: 5.0e-3, head: 5.0e-3}"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rendered data set for all runs of this file."""
    return tmp_path_factory.mktemp("rendered")


def arguments(run: Path, rendered: Path, *overrides: str) -> list[str]:
    """A few steps of conf/stage1.yaml."""
    return [
        *("fit", "-c", str(ROOT / "conf/stage1.yaml")),
        *("--trainer.logger.save_dir", str(run), "--trainer.log_every_n_steps", "1"),
        *("--data.root", str(rendered), "--data.num_train", "12", "--data.num_val", "4"),
        *("--data.batch_size", "2", "--data.num_workers", "0", "--trainer.accelerator", "cpu"),
        *("--model.own_thought_pairs", "2", "--model.max_thought_tokens", "160"),
        *("--trainer.enable_model_summary", "false"),
        *overrides,
    ]


def fit(run: Path, rendered: Path, *overrides: str) -> Path:
    """Train, and return the folder of the run."""
    main(arguments(run, rendered, *overrides))
    return run / "stage1/version_0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, rendered: Path) -> Path:
    steps = ("--trainer.max_steps", "4", "--trainer.val_check_interval", "2")
    rates = ("--model.optimization.learning_rates", MERGER_TOO)
    return fit(tmp_path_factory.mktemp("run"), rendered, *steps, *rates)


def test_what_trains_moves_and_the_rest_stays(trained: Path) -> None:
    start = load_file(ROOT / "src/descore/tiny/model.safetensors")
    after = exported_weights(trained / "export/last")
    moved = {name for name, tensor in start.items() if not torch.equal(tensor.float(), after[name])}
    language = {name for name in start if "language_model.layers" in name and "_proj" in name}
    merger = {name for name in start if ".visual." in name and "merger" in name}
    assert moved >= language | merger
    assert not {name for name in moved if ".visual." in name} - merger
    embedding = "model.language_model.embed_tokens.weight"
    rows = (start[embedding].float() != after[embedding]).any(dim=1).nonzero()[:, 0].tolist()
    assert rows == RewardModel.from_pretrained(str(trained / "export/last")).processor.query_ids


def test_a_run_leaves_checkpoints_exports_and_its_configuration(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    expected = {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    expected |= {
        f"export/{name}/{file}" for name in ("best", "last") for file in ("descore.json", "reward.safetensors")
    }
    assert expected <= files
    assert not {name for name in files if name.startswith("export") and name.endswith((".pt", ".bin", ".pkl"))}


def test_a_checkpoint_holds_only_what_trains(trained: Path) -> None:
    state = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {name.partition(".")[0] for name in state} == {"model"}
    assert any("lora_A" in name for name in state)
    assert not any("visual.blocks" in name or "base_layer.weight" in name for name in state)


def test_tensorboard_shows_the_headline_and_its_companions(trained: Path) -> None:
    events = EventAccumulator(str(trained))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    accuracies = {
        f"{table}/preference_accuracy{mode}"
        for table in ("val", "val/ood")
        for mode in ("", "_no_thought", "_teacher_thought")
    }
    assert accuracies <= tags
    assert {
        "train/loss",
        "train/preference_accuracy",
        "train/reward_margin",
        "val/reward_mean",
        "val/reward_std",
    } <= tags
    assert {f"grad/{part}" for part in ("language", "merger", "query", "head")} <= tags
    assert {"train/pairs_per_second", "train/tokens_per_second", "train/wait_share"} <= tags
    assert events.Tags()["images"]
    assert events.Tags()["tensors"]


def test_the_export_scores_videos(trained: Path, rendered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = sorted(str(path) for path in (rendered / "val/videos").glob("*.mp4"))[:2]
    code = descore([
        "score",
        "--model",
        str(trained / "export/best"),
        "--prompt",
        "A red circle moves up fast.",
        "--json",
        *videos,
    ])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [record["video"] for record in records] == videos
    assert all(record["error"] is None and abs(record["reward"]) < 100 for record in records)


def test_a_run_that_is_killed_and_resumed_ends_the_same(tmp_path: Path, rendered: Path) -> None:
    """Eight steps at once, or five, a kill in the middle of an epoch, and three in a new process: the same bits."""
    steps = ("--trainer.max_steps", "8", "--trainer.val_check_interval", "2", "--model.max_thought_tokens", "8")
    steps += EVERY_STEP
    whole = fit(tmp_path / "whole", rendered, *steps)
    kill = kill_at("on_train_batch_start", 5)
    command = [sys.executable, "-m", "descore.train", *arguments(tmp_path / "killed", rendered, *steps, *kill)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number sums in another order
    done = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    resumed = fit(tmp_path / "killed", rendered, *steps, "--resume", "auto")
    assert torch.load(resumed / "checkpoints/best.ckpt")["global_step"] > 0
    assert not differences(whole, resumed)


def test_masking_acts_in_training_only(trained: Path, rendered: Path) -> None:
    """A run that masks every pair still validates with the teacher's thought."""
    cli = main(
        [
            "-c",
            str(ROOT / "conf/stage1.yaml"),
            "--model.objective.cot_mask_prob",
            "1.0",
            "--trainer.accelerator",
            "cpu",
        ],
        run=False,
    )
    cli.model.configure_model()
    pairs = read_pairs(rendered / "val/pairs.jsonl").pairs[:2]
    training = cli.model.collator(training=True)(0, pairs)
    validation = cli.model.collator(training=False)(0, pairs)
    assert [len(lengths) for lengths in training.branches.layout.branch_lengths] == [1] * 4
    assert max(max(lengths) for lengths in training.branches.layout.branch_lengths) == 1
    assert [lengths[1] for lengths in validation.branches.layout.branch_lengths] == [1] * 4
    assert min(lengths[0] for lengths in validation.branches.layout.branch_lengths) > 50
