"""Every configuration is built as a user would build it, found by a search through all of conf/."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from descore.modules.rl import RLModule
from descore.modules.system import RewardSystem
from descore.train import main

CONF = Path(__file__).parents[1] / "conf"
OVERLAYS = sorted((CONF / "overlay").glob("*.yaml"))
BENCHMARKS = sorted((CONF / "benchmarks").glob("*.yaml"))  # read in tests/unit/evaluation/test_benchmark.py
RUNS = sorted(path for path in CONF.rglob("*.yaml") if path not in OVERLAYS + BENCHMARKS)


def named(path: Path) -> str:
    return str(path.relative_to(CONF))


def test_the_search_finds_the_configurations() -> None:
    assert {"stage1.yaml", "qwen3_vl_8b/stage1.yaml"} <= {named(path) for path in RUNS}
    assert OVERLAYS


def seed_of(cli: LightningCLI) -> int:
    model = cli.model
    return model.rollout_settings.sampling.seed if isinstance(model, RLModule) else model.seed


@pytest.mark.parametrize("path", RUNS, ids=named)
def test_a_configuration_builds(path: Path, tmp_path: Path) -> None:
    cli = main(["-c", str(path), "--trainer.accelerator", "cpu", "--trainer.logger.save_dir", str(tmp_path)], run=False)
    assert isinstance(cli.model, RewardSystem)
    assert seed_of(cli) == cli.datamodule.seed == cli.config["seed_everything"]


@pytest.mark.parametrize("path", OVERLAYS, ids=named)
def test_an_overlay_builds_on_stage1(path: Path, tmp_path: Path) -> None:
    arguments = ["-c", str(CONF / "stage1.yaml"), "-c", str(path), "--trainer.accelerator", "cpu"]
    cli = main([*arguments, "--trainer.logger.save_dir", str(tmp_path)], run=False)
    assert isinstance(cli.model, RewardSystem)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `fit --print_config` prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, "--print_config"])
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["stage1.yaml", "stage2.yaml"])
def test_a_printed_configuration_is_read_back_as_it_was(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = printed(capsys, "-c", str(CONF / name), "--trainer.max_steps", "7")
    assert "max_steps: 7" in first
    (tmp_path / "printed.yaml").write_text(first)
    assert printed(capsys, "-c", str(tmp_path / "printed.yaml")) == first


def test_a_shared_value_stands_once_and_overrides_reach_it() -> None:
    cli = main(["-c", str(CONF / "stage1.yaml"), "--seed_everything", "7", "--trainer.accelerator", "cpu"], run=False)
    assert (seed_of(cli), cli.datamodule.seed) == (7, 7)


@pytest.mark.parametrize(
    "argument", ["--model.cot_mask_probability", "--data.batchsize", "--trainer.max_step", "--model.video_fps"]
)
def test_an_unknown_key_is_an_error_that_names_it(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-c", str(CONF / "stage1.yaml"), f"{argument}=1"], run=False)
    assert argument.rpartition(".")[2] in capsys.readouterr().err


def test_a_part_that_does_not_exist_is_an_error_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"vison.*expected some of .*vision"):
        main(["-c", str(CONF / "stage1.yaml"), "--model.optimization.learning_rates", "{vison: 0.1}"], run=False)
