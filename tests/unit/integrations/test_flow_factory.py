"""The reward model of Flow-Factory, on its interface as src/flow_factory/rewards/abc.py has it."""

import importlib
import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from descore.integrations import flow_factory


@dataclass
class RewardModelOutput:
    rewards: Any
    extra_info: dict[str, Any] | None = None


class PointwiseRewardModel(ABC):
    required_fields = ("image", "prompt")
    use_tensor_inputs = False

    def __init__(self, config, accelerator):
        self.accelerator, self.config = accelerator, config
        self.device = accelerator.device if config.device == torch.device("cuda") else config.device
        self.dtype = config.dtype
        self.model = None

    @abstractmethod
    def __call__(self, prompt, image=None, video=None, audio=None, condition_images=None, condition_videos=None, **kw):
        raise NotImplementedError


@pytest.fixture
def installed(monkeypatch):
    """Flow-Factory, as much of it as a reward model sees."""
    modules = {name: ModuleType(name) for name in ("flow_factory", "flow_factory.rewards", "flow_factory.rewards.abc")}
    modules["flow_factory.rewards.abc"].PointwiseRewardModel = PointwiseRewardModel
    modules["flow_factory.rewards.abc"].RewardModelOutput = RewardModelOutput
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield
    flow_factory._reward_class.cache_clear()


def get_reward_model_class(identifier):
    """As rewards/registry.py finds a class by its dotted path."""
    module, _, name = identifier.rpartition(".")
    return getattr(importlib.import_module(module), name)


def config(**options):
    defaults = {"device": torch.device("cuda"), "dtype": torch.float32, "batch_size": 8, "fps": 16}
    return SimpleNamespace(**defaults | options)


ACCELERATOR = SimpleNamespace(device=torch.device("cpu"))
CLASS = "descore.integrations.flow_factory.DeScoreReward"


def test_the_processor_gets_a_reward_for_each_video_of_a_batch(installed, export, scorer):
    model = get_reward_model_class(CLASS)(config(model_path=export), ACCELERATOR)
    assert isinstance(model, PointwiseRewardModel)
    assert model.use_tensor_inputs
    assert set(model.required_fields) == {"prompt", "video"}
    draw = torch.Generator().manual_seed(0)
    videos = [torch.randint(0, 256, (9, 3, 32, 48), generator=draw).float() / 255 for _ in range(2)]
    output = model(prompt=["a bar", "a cat"], video=videos)
    rewards = torch.as_tensor(output.rewards, device="cpu", dtype=torch.float32)
    assert rewards.tolist() == [one.reward for one in scorer.score(videos, ["a bar", "a cat"], fps=16)]
    assert output.extra_info == {"errors": [None, None]}


def test_a_failed_video_is_nan_with_its_reason(installed, export):
    model = get_reward_model_class(CLASS)(config(model_path=export, num_thoughts=0), ACCELERATOR)
    output = model(prompt=["a", "a"], video=[torch.zeros(9, 3, 32, 48), torch.full((9, 3, 32, 48), 9.0)])
    assert [math.isnan(one) for one in output.rewards] == [False, True]
    assert "expected numbers from 0 to 1" in output.extra_info["errors"][1]
    assert not model.scorer.thoughts


def test_what_is_missing_is_said(installed, export):
    with pytest.raises(ValueError, match="DeScoreReward needs model_path in its entry under rewards"):
        get_reward_model_class(CLASS)(config(), ACCELERATOR)
    with pytest.raises(ValueError, match="DeScoreReward needs fps"):
        get_reward_model_class(CLASS)(config(model_path=export, fps=None), ACCELERATOR)
    with pytest.raises(ValueError, match="the generator makes images"):
        get_reward_model_class(CLASS)(config(model_path=export), ACCELERATOR)(prompt=["a"], image=[None])


def test_without_flow_factory_there_is_no_class():
    with pytest.raises(ImportError):
        get_reward_model_class(CLASS)
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        get_reward_model_class("descore.integrations.flow_factory.Other")
