"""Imported models score as a straight re-implementation of the published code does, on small random checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from descore import Scorer
from descore.importing.request import ImportRequest, LayoutName
from descore.importing.run import import_model
from descore.model.description import describe
from tests.helpers.published import NAMES, STATISTICS, Published, write_hpsv3, write_videoreward

PROMPTS = ("A red circle moves left fast.", "the video")
CLOSE = {"abs": 1e-5}


def imported(published: Published, layout: LayoutName, folder: Path, **options: Any) -> Path:
    import_model(ImportRequest(layout, output=folder / "export", **published.options | options))
    return folder / "export"


def noise(num: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (num, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(scope="module")
def videoreward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Scorer]:
    folder = tmp_path_factory.mktemp("videoreward")
    published = write_videoreward(folder)
    return published, Scorer(str(imported(published, "videoreward", folder)), device="cpu")


def z_scores(published: Published, frames: Tensor, prompt: str) -> dict[str, float]:
    """Two frames a second, at equal distances; the diagonal of three states and three rows; (raw - mean) / std."""
    places = torch.linspace(0, len(frames) - 1, 4).round().long()
    raw = published.network.rm_head(published.states(frames[places], prompt, "video")).diagonal().tolist()
    return {name: (one - mean) / std for name, one, (mean, std) in zip(NAMES, raw, STATISTICS.values(), strict=True)}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_videoreward_gives_the_published_z_scores(videoreward: tuple[Published, Scorer], prompt: str) -> None:
    published, scorer = videoreward
    frames = noise(12, 320, 320)  # within the budget of pixels, so no frame is resized
    expected = z_scores(published, frames, prompt)
    (score,) = scorer.score([frames], prompt, fps=6)
    assert score.error is None
    assert score.rewards == pytest.approx(expected, **CLOSE)
    assert score.reward == pytest.approx(sum(expected.values()), **CLOSE)
    assert score.normalised_reward == pytest.approx(score.reward)


def test_of_videoreward_only_the_alignment_moves_with_the_prompt(videoreward: tuple[Published, Scorer]) -> None:
    _, scorer = videoreward
    one, other = (scorer.score([noise(12, 320, 320)], prompt, fps=6)[0].rewards for prompt in PROMPTS)
    assert [one[name] for name in ("VQ", "MQ")] == pytest.approx([other[name] for name in ("VQ", "MQ")], abs=1e-6)
    assert abs(one["TA"] - other["TA"]) > 1e-3


def test_rank_stabilised_lora_has_another_factor(tmp_path: Path) -> None:
    published = write_videoreward(tmp_path, use_rslora=True)
    frames = noise(12, 320, 320)
    (score,) = Scorer(str(imported(published, "videoreward", tmp_path)), device="cpu").score([frames], "it", fps=6)
    assert score.rewards == pytest.approx(z_scores(published, frames, "it"), **CLOSE)


@pytest.mark.parametrize("old_names", [True, False])
def test_hpsv3_gives_the_published_mean_of_a_picture(tmp_path: Path, old_names: bool) -> None:
    published = write_hpsv3(tmp_path, old_names=old_names)
    scorer = Scorer(str(imported(published, "hpsv3", tmp_path)), device="cpu")
    frames = noise(3, 448, 448)  # exactly as many pixels as HPSv3 takes
    with torch.no_grad():
        states = published.states(frames[[0, 0]], PROMPTS[0], "image")
        mean, deviation = published.network.rm_head(states)[0].tolist()
    picture, video = scorer.score([frames[:1], frames], PROMPTS[0], fps=8)
    assert picture.reward == pytest.approx(mean, **CLOSE)
    assert video.reward == pytest.approx(mean, **CLOSE)  # its first frame
    assert abs(mean - deviation) > 1e-3


def test_the_export_says_where_it_comes_from(videoreward: tuple[Published, Scorer], tmp_path: Path) -> None:
    published, _ = videoreward
    export = imported(published, "videoreward", tmp_path, revision="b8e421fe")
    origin = describe(export).origin
    assert origin is not None
    assert (origin.layout, origin.source, origin.license) == ("videoreward", str(published.source), "apache-2.0")
    assert origin.revision == "b8e421fe"
    assert {"model_config.json", "checkpoint-20/model.pth", "template:template.txt"} <= origin.files.keys()
    assert "z-scores" in origin.protocol
    content = json.loads((export / "descore.json").read_text())
    assert {len(total) for total in content["origin"]["files"].values()} == {64}
