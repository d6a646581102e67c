"""A browser; and runs of both stages, on one process or several, from tiny models and a table of uneven pairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from tests.conftest import FAMILIES
from tests.helpers.spread import USUAL, Fit

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

SCORES = {"subject": 2, "dynamics": 1, "camera": None, "environment": 2, "style": 0}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    from tests.helpers.browsing import start_browser

    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def starts(build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What runs start from, by family; "untied" is a Qwen3-VL whose output layer is not its embedding."""
    folder = tmp_path_factory.mktemp("starts")
    (folder / "template.txt").write_text("Judge it: {prompt}")
    for family in FAMILIES:
        build(family, max_thought_tokens=6).save_pretrained(str(folder / family))
    shutil.copytree(folder / "qwen3_vl", folder / "untied")
    config = folder / "untied/backbone/config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    weights = load_file(file := folder / "untied/backbone/model.safetensors")
    embedding = weights["model.language_model.embed_tokens.weight"]
    save_file(weights | {"lm_head.weight": embedding.flip(1)}, file, metadata={"format": "pt"})
    return {family: folder / family for family in (*FAMILIES, "untied")}


@pytest.fixture(scope="module")
def table(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pairs, one of them a tie: batches of four leave three, two for one rank and one for the other."""
    path = tmp_path_factory.mktemp("table") / "pairs.jsonl"
    sides = [
        Side(clip, scores=SCORES, thought="<think>" + "a red circle " * index) for index, clip in enumerate(clips, 1)
    ]
    pairs = [
        Pair(f"p{i}", "a circle " * (i + 1), sides[i % 4], sides[(i + 1 + i // 4) % 4], (float(i % 3 - 1 or 1),))
        for i in range(10)
    ]
    write_pairs(path, [*pairs, replace(pairs[0], id="tie", preference=(0.0,))])
    return path


@pytest.fixture
def fit(tmp_path: Path, starts: dict[str, Path], table: Path) -> Fit:
    """Train a stage, on one process as it is or sharded over several, and return the folder of the run."""
    # Imported at the top, before pytest takes logs, Lightning would write them to handlers of its own.
    from descore.train import main
    from tests.helpers.ranks import ROOT, train

    def run(
        name: str, stage: str, *overrides: str, processes: int = 0, overlay: str = "fsdp", family: str = ""
    ) -> Path:
        source = "--model.pretrained" if stage == "stage2" else "--model.backbone"
        start = starts[family or USUAL[stage]] / ("" if stage == "stage2" else "backbone")
        sharded = ("-c", f"conf/overlay/{overlay}.yaml", "--trainer.precision", "32-true") if processes else ()
        arguments = [
            *("fit", "-c", str(ROOT / f"conf/{stage}.yaml"), *sharded),
            *("--data", "data_modules.preference.PreferencePairDataModule", "--data.train", str(table)),
            *("--data.val", json.dumps({"val": str(table)}), "--data.num_workers", "0", "--data.val_batch_size", "4"),
            *(source, str(start), "--trainer.accelerator", "cpu", "--trainer.logger.save_dir", str(tmp_path / name)),
            *(
                "--trainer.log_every_n_steps",
                "1",
                "--trainer.enable_model_summary",
                "false",
                "--model.optimization.warmup",
                "0",
            ),
            *(
                "--model.optimization.schedule",
                "constant_with_warmup",
                "--data.batch_size",
                str(4 // max(processes, 1)),
            ),
            *(
                "--trainer.max_epochs",
                "-1",
                "--trainer.val_check_interval",
                "10",
                "--trainer.check_val_every_n_epoch",
                "null",
            ),
            *overrides,
        ]
        if stage == "stage1":
            arguments += ["--model.template", str(start.parents[1] / "template.txt"), "--model.max_thought_tokens", "6"]
        else:
            arguments += [
                "--model.rubric.weights",
                "{tests.helpers.rules.even_codes: 1.0}",
                "--model.sampling.num_thoughts",
                "3",
            ]
            arguments += ["--model.weights.calibration", "0.5", "--model.weights.kl", "0.1"]
            arguments += ["--model.batching.mini_batch_pairs", str(2 // max(processes, 1))]
        if processes:
            train(arguments, processes, tmp_path / f"{name}.txt")
        else:
            main(arguments)
        return tmp_path / name / stage / "version_0"

    return run
