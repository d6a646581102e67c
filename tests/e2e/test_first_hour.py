"""What a new user meets: a mistake, an interrupt, another logger, a dry run, and stage 2 after all of that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from descore.train import command
from tests.helpers.finished_runs import logged_points

ROOT = Path(__file__).parents[2]
Start = Callable[..., int]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rendered")


def arguments(stage: int, runs: Path, rendered: Path, *overrides: str) -> list[str]:
    """A few steps of a shipped configuration."""
    of_stage = {
        1: ("--model.max_thought_tokens", "8"),
        2: ("--model.sampling.max_tokens", "8", "--model.sampling.num_thoughts", "2"),
    }
    return [
        *("fit", "-c", f"conf/stage{stage}.yaml", "--trainer.accelerator", "cpu"),
        *("--trainer.logger.save_dir", str(runs)),
        *("--data.root", str(rendered), "--data.num_train", "8", "--data.num_val", "2", "--data.batch_size", "2"),
        *("--data.num_workers", "0", "--model.own_thought_pairs", "1", "--trainer.max_steps", "2"),
        *of_stage[stage],
        *overrides,
    ]


@pytest.fixture
def start(tmp_path: Path, rendered: Path) -> Start:
    return lambda stage, *overrides: command(arguments(stage, tmp_path / "runs", rendered, *overrides))


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_stage_2_starts_from_the_newest_finished_stage_1(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished run, one that failed at its start, and one that was killed."""
    assert start(1) == 0
    assert start(1, "--trainer.gradient_clip_val", "1") == 2  # wrong, which is found when the optimizer is made
    run = tmp_path / "runs/stage1"
    assert [path.name for path in run.iterdir()] == ["version_0"]
    (run / "version_1/export/best").mkdir(parents=True)
    (run / "version_1/export/best/descore.json").write_text("{}")
    assert start(2, "--model.pretrained", str(run)) == 0
    assert f"{run}/version_0/export/last" in (tmp_path / "runs/stage2/version_0/config.yaml").read_text()


@pytest.mark.parametrize(
    ("stage", "wrong", "said"),
    [
        (2, ("--model.pretrained", "runs/nothing"), "runs/nothing"),
        (2, ("--model.pretrained", "conf"), "conf is not an exported folder"),
        (1, ("--model.backbone", "nothing"), "backbone 'nothing'"),
        (
            1,
            ("--model.template", "nothing"),
            "nothing: expected descore, pair, ",
        ),
        (1, ("--model.own_thought_pairs", "0", "--model.reward_from", "overall_score"), "own_thought_pairs is 0"),
        (1, ("--resume", "nothing.ckpt"), "nothing.ckpt"),
    ],
)
def test_what_is_wrong_is_one_line_before_data_is_rendered(
    stage: int, wrong: tuple[str, ...], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = command(arguments(stage, tmp_path / "runs", tmp_path / "rendered", *wrong))
    last = capfd.readouterr().err.splitlines()[-1]
    assert (code, last[: len("descore.train: ")]) == (2, "descore.train: ")
    assert said in last
    if "ckpt" not in said:
        assert not (tmp_path / "rendered").exists()
    assert not list(tmp_path.glob("runs/*/version_*"))


def test_a_bad_table_is_one_line_with_the_option_to_type(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("prompt,video_a,video_b,preference\na cat,a.mp4,b.mp4,best\n")
    data = ("--data", "data_modules.preference.PreferencePairDataModule", "--data.train", str(table))
    assert command(["fit", "-c", "conf/stage1.yaml", *data, "--trainer.logger.save_dir", str(tmp_path)]) == 2
    assert "--data.on_bad.row skip" in capfd.readouterr().err.splitlines()[-1]
    data = (*data[:-1], str(tmp_path / "nothing.csv"))
    assert command(["fit", "-c", "conf/stage1.yaml", *data, "--trainer.logger.save_dir", str(tmp_path)]) == 2
    assert capfd.readouterr().err.splitlines()[-1].endswith("give your table with --data.train FILE")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_a_fault_of_the_program_keeps_its_traceback(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("descore.modules.cold_start.ColdStartModule.training_step", lambda *_: int("one"))
    with pytest.raises(ValueError, match="invalid literal"):
        start(1)


@pytest.mark.parametrize(
    ("stage", "logger"),
    [(1, "CSVLogger"), (1, "false"), (2, "false"), (1, "tests.helpers.loggers.RemoteLogger")],
)
def test_any_logger_does(stage: int, logger: str, tmp_path: Path, rendered: Path, build: Callable) -> None:
    started = arguments(
        stage, tmp_path, rendered, "--trainer.logger", logger, "--trainer.default_root_dir", str(tmp_path / "none")
    )
    if logger == "false":
        place = started.index("--trainer.logger.save_dir")
        del started[place : place + 2]
    if stage == 2:
        build(max_thought_tokens=8).save_pretrained(str(tmp_path / "start"))
        started += ["--model.pretrained", str(tmp_path / "start")]
    assert command(started) == 0
    (export,) = tmp_path.glob("**/export/last/descore.json")
    assert (export.parents[2] / "checkpoints/last.ckpt").is_file()
    assert export.parents[2] != tmp_path


def test_a_dry_run_leaves_nothing(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = everything(ROOT / "conf") + [path.name for path in ROOT.iterdir()]
    assert start(1, "--trainer.fast_dev_run", "true") == 0
    assert everything(tmp_path) == []
    assert everything(ROOT / "conf") + [path.name for path in ROOT.iterdir()] == before


def test_a_run_without_validation_trains(start: Start, rendered: Path, tmp_path: Path) -> None:
    assert start(1) == 0
    table = str(rendered / "train/pairs.jsonl")
    data = ("--data", "data_modules.preference.PreferencePairDataModule", "--data.train", table)
    more = ("--data.num_workers", "0", "--data.batch_size", "4", "--model.own_thought_pairs", "1")
    more += ("--trainer.max_steps", "2", "--trainer.logger.save_dir", str(tmp_path / "no"))
    assert command(["fit", "-c", "conf/stage1.yaml", *data, *more]) == 0
    assert {path.name for path in tmp_path.glob("no/stage1/version_0/export/*")} == {"last"}
    assert command(["fit", "-c", "conf/stage1.yaml", *data, "--data.val", table, *more]) == 0
    assert {path.name for path in tmp_path.glob("no/stage1/version_1/export/*")} == {"best", "last"}


def test_the_first_group_of_tensorboard_is_the_headline(start: Start, tmp_path: Path) -> None:
    assert start(1, "--trainer.log_every_n_steps", "1") == 0
    points = logged_points(tmp_path / "runs/stage1/version_0")
    assert sorted(points)[:2] == ["accuracy/val", "accuracy/val_ood"]
    assert points["accuracy/val"] == points["val/preference_accuracy"]
    assert not {"epoch", "hp_metric"} & set(points)


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, rendered: Path) -> None:
    ask = ("--trainer.callbacks+=tests.helpers.killing.Ask", "--trainer.callbacks.step=1")
    ask += (f"--trainer.callbacks.number={int(signal.SIGINT)}",)
    words = arguments(1, tmp_path, rendered, "--trainer.max_steps", "4", "--trainer.val_check_interval", "4", *ask)
    stopped = subprocess.run(
        [sys.executable, "-m", "descore.train", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.splitlines()[-1].endswith("repeat the command with --resume auto (RESUME=auto for make)")
    assert command([*words[: -len(ask)], "--resume", "auto"]) == 0
    assert [path.name for path in (tmp_path / "stage1").iterdir()] == ["version_0"]
