"""A model that compares two videos."""

import pytest

from descore.inputs.choice import ChoiceSettings
from descore.model.reward_model import RewardModel
from tests.conftest import Build

CHOICE = ChoiceSettings("<answer>", first="left", second="moves", tie="same")
TEMPLATE = "1 {video:1} 2 {video:2} Judge it: {prompt}"


@pytest.fixture(scope="session")
def judge(build: Build) -> RewardModel:
    """A model that compares two videos, without thoughts; to be read only."""
    return build(template=TEMPLATE, reward_from="choice", choice=CHOICE, thoughts=False)
