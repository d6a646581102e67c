"""The courses of the tiny backbone: they learn, they resume to the bit, and what they leave is a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_modules.world.small_backbone import Sizes
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from pretraining.__main__ import COURSES, checkpoint, make, ship, teach
from pretraining.course import CourseModule
from pretraining.recipe import VIDEO, Course, Recipe
from pretraining.videos import numbers_of

SMALL = Course(steps=4, videos=2, learning_rate=1e-3, warmup=1, checked=4)
RECIPE = Recipe(
    Sizes(text=32, text_layers=2, vision=32, vision_layers=2), SMALL, SMALL, SMALL, processes=1, save_every=2
)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("taught")
    for name in COURSES:
        teach(name, root, RECIPE)
    return root


def weights(root: Path, name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint(root, name), weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize("name", COURSES)
def test_a_course_that_is_stopped_resumes_to_the_bit(taught, tmp_path, monkeypatch, name):
    for earlier in ("start", *COURSES[: COURSES.index(name)]):
        (tmp_path / earlier).symlink_to(taught / earlier)

    def stop(module: CourseModule, name: str, loss: torch.Tensor) -> torch.Tensor:
        if module.global_step == 3:
            raise RuntimeError("stopped")
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(CourseModule, "log_loss", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            teach(name, tmp_path, RECIPE)
    stopped, expected = weights(tmp_path, name), weights(taught, name)
    assert any((stopped[key] != expected[key]).any() for key in expected)
    teach(name, tmp_path, RECIPE)
    found = weights(tmp_path, name)
    assert [key for key in expected if (found[key] != expected[key]).any()] == []


def test_each_course_teaches_its_part(taught):
    start = make("perception", taught, RECIPE).state_dict()
    moved = {
        name: {key for key, value in weights(taught, name).items() if (value != start.get(key, value)).any()}
        for name in COURSES
    }
    assert {"visual" in key for key in moved["perception"] if "probe" not in key} == {True}
    assert {"visual" in key for key in moved["language"]} == {False}
    assert {"visual" in key for key in moved["together"]} == {True, False}


def test_what_is_shipped_is_a_backbone_with_its_recipe_and_what_it_sees(taught, tmp_path, capsys):
    ship(taught, 2, RECIPE, tmp_path / "tiny")
    assert "scores_at_once" in capsys.readouterr().out
    model = RewardModel.create(ModelSettings(str(tmp_path / "tiny"), "{prompt}", VIDEO))
    assert next(model.base.parameters()).shape
    assert '"learning_rate": 0.001' in (tmp_path / "tiny/recipe.json").read_text()


def test_ranks_draw_other_videos():
    assert numbers_of(5, SMALL, 0) != numbers_of(5, SMALL, 1000)
