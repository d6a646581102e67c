"""The model `demo`: it scores its own videos as their names say, it is small, and it says what it does not know."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from descore import Scorer
from descore.cli import main
from descore.demo.shipped import DEMO, FOLDER, MODEL, NOTICE, demo_videos
from descore.model.description import ExportError, describe, find
from descore.model.finished import find_export


def test_the_better_video_of_each_prompt_has_the_higher_reward(caplog: pytest.LogCaptureFixture) -> None:
    videos, prompts = demo_videos()
    with caplog.at_level(logging.WARNING):
        scores = Scorer(DEMO, device="cpu").score(videos, prompts)
    assert caplog.messages == [NOTICE]
    better, worse = scores[::2], scores[1::2]
    assert all(prompts[i] == prompts[i + 1] for i in range(0, len(prompts), 2))
    assert all("better" in video for video in videos[::2])
    assert all(one.reward > other.reward + 1 for one, other in zip(better, worse, strict=True))
    assert all(score.dimension_scores is not None for score in scores)


def test_it_is_an_adapter_on_the_tiny_backbone_of_less_than_a_megabyte() -> None:
    found = describe(DEMO)
    assert (found.weights, found.settings.backbone) == ("adapter", "tiny")
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1_000_000


def test_a_folder_of_that_name_is_given_as_a_path(export: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(export, "demo")
    assert find(DEMO) == find_export(DEMO) == FOLDER / MODEL
    for other in ("./demo", "demo/", Path("demo"), str(tmp_path / "demo")):
        assert find(other) == find(str(find_export(other))) == tmp_path / "demo"
    with pytest.raises(ExportError, match="demo"):
        find("./demo/export")


def test_a_record_of_the_command_has_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--model", DEMO, "--no-thoughts", "--device", "cpu", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["prompt"] for record in records] == demo_videos()[1]


def test_the_command_scores_the_shipped_videos_if_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--model", DEMO, "--no-thoughts", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("  prompt: ") == printed.count("  reward ") == 6


def test_it_writes_their_table(tmp_path: Path) -> None:
    output = tmp_path / "scored.jsonl"
    assert main(["score", "--model", DEMO, "--no-thoughts", "--device", "cpu", "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 6
    assert all(isinstance(row["reward"], float) for row in rows)


@pytest.mark.parametrize("options", [["--model", "other"], ["--model", DEMO, "--prompt", "A red circle."]])
def test_other_models_need_videos(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["score", *options])
    assert ended.value.code == 2
    assert "only the model demo has videos of its own" in capsys.readouterr().err
