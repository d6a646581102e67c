"""A model that compares two videos."""

import pytest

from descore.inputs.choice import ChoiceSettings
from descore.model.reward_model import RewardModel
from descore.scoring.scorer import Scorer
from tests.conftest import Build

CHOICE = ChoiceSettings("<answer>", first="left", second="moves", tie="same")
TEMPLATE = "1 {video:1} 2 {video:2} Judge it: {prompt}"


@pytest.fixture(scope="session")
def judge(build: Build) -> RewardModel:
    """A model that compares two videos, without thoughts; to be read only."""
    return build(template=TEMPLATE, reward_from="choice", choice=CHOICE, thoughts=False)


@pytest.fixture(scope="session")
def judge_export(judge: RewardModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its exported folder."""
    folder = tmp_path_factory.mktemp("judge") / "export"
    judge.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def comparer(judge_export: str) -> Scorer:
    return Scorer(judge_export, device="cpu")
