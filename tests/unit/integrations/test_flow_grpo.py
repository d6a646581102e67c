"""The reward function of Flow-GRPO and GenRL, called as their code calls it."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from descore.integrations.flow_grpo import fill_failed, video_score, videos_of
from descore.scoring.scorer import Scorer

PROMPTS = ("a bar", "a cat")


@pytest.fixture
def videos() -> torch.Tensor:
    """What a pipeline of diffusers returns for output_type="pt": [N, T, 3, H, W] in [0, 1]."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 9, 3, 32, 48), generator=draw).float() / 255


@pytest.fixture
def expected(scorer, videos) -> list[float]:
    pixels = (videos * 255).round().byte()
    return [one.reward for one in scorer.score(list(pixels), list(PROMPTS), fps=16)]


def flow_grpo_multi_score(factories, device, weights):
    """As flow_grpo/rewards.py composes its rewards and scripts/train_wan2_1.py reads them."""
    functions = {
        name: factories[name](device) if "device" in factories[name].__code__.co_varnames else factories[name]()
        for name in weights
    }

    def score(images, prompts, metadata, only_strict=True):
        total, details = [], {}
        for name, weight in weights.items():
            scores, _ = functions[name](images, prompts, metadata)
            details[name] = scores
            weighted = [weight * one for one in scores]
            total = weighted if not total else [a + b for a, b in zip(total, weighted, strict=True)]
        return details | {"avg": total}, {}

    return score


def genrl_multi_score(module, device, weights):
    """As genrl/rewards.py composes the rewards of a user's module."""
    functions = {name: getattr(module, f"{name}_score")(device) for name in weights}

    def score(images, prompts, metadata, only_strict=True):
        scores = {}
        for name, function in functions.items():
            out, _ = function(images, prompts, metadata)
            scores[name] = (out.get("avg", out) if isinstance(out, dict) else out) * weights[name]
        return scores | {"avg": torch.stack([scores[name] for name in weights], dim=0).mean(0)}, {}

    return score


def test_flow_grpo_gets_the_rewards_of_the_scorer(export, videos, expected):
    reward_fn = flow_grpo_multi_score({"descore": video_score(export, fps=16)}, torch.device("cpu"), {"descore": 0.5})
    with ThreadPoolExecutor(8) as executor:
        futures = [executor.submit(reward_fn, videos, PROMPTS, [{}, {}], only_strict=True) for _ in range(3)]
        results = [future.result() for future in futures]
    for rewards, _ in results:
        read = {name: torch.as_tensor(value, device="cpu").float() for name, value in rewards.items()}
        assert read["descore"].tolist() == expected
        assert read["avg"].tolist() == [0.5 * reward for reward in expected]


def test_genrl_gets_them_from_a_module_of_the_user(export, videos, expected):
    class Module:
        descore_score = staticmethod(video_score(export, fps=16))

    reward_fn = genrl_multi_score(Module, torch.device("cpu"), {"descore": 2.0})
    rewards, _ = reward_fn(videos, list(PROMPTS), None)
    assert rewards["avg"].tolist() == [2 * reward for reward in expected]
    assert rewards["descore"].dtype == torch.float32


@pytest.mark.parametrize("layout", ["NFHWC uint8", "NFCHW uint8", "half", "list"])
def test_every_layout_gives_the_same_rewards(scorer, videos, expected, layout):
    pixels = (videos * 255).round().byte()
    given = {
        "NFHWC uint8": pixels.permute(0, 1, 3, 4, 2).numpy(),
        "NFCHW uint8": pixels,
        "half": videos.half(),
        "list": [video.permute(0, 2, 3, 1).numpy() for video in pixels],
    }[layout]
    rewards, more = video_score(scorer, fps=16)("cpu")(given, PROMPTS, {})
    assert more == {}
    assert rewards.tolist() == expected


def test_images_are_videos_of_one_frame(scorer):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    rewards, _ = video_score(scorer, fps=16)("cpu")(images, PROMPTS)
    assert rewards.tolist() == [one.reward for one in scorer.score([images[:1], images[1:]], list(PROMPTS), fps=16)]
    with pytest.raises(ValueError, match=r"expected videos \[N, T, 3, H, W\]"):
        videos_of(torch.zeros(3, 32, 32))


def test_the_model_is_loaded_once_per_device_and_when_it_is_needed(export, monkeypatch):
    loaded, load = [], Scorer.__init__
    monkeypatch.setattr(Scorer, "__init__", lambda *args, **named: loaded.append(named) or load(*args, **named))
    factory = video_score(export, fps=16, thoughts=False)
    assert loaded == []
    factory(torch.device("cpu")), factory("cpu")
    assert loaded == [{"device": "cpu", "thoughts": False}]


def test_a_failed_video_is_nan_and_its_reason_is_logged(scorer, videos, expected, caplog):
    videos[0] = 3.0
    rewards, _ = video_score(scorer, fps=16)("cpu")(videos, PROMPTS)
    assert math.isnan(rewards[0])
    assert rewards[1].item() == pytest.approx(expected[1], abs=1e-5)
    assert "1 of 2 videos have no reward (nan): frames in memory: expected numbers from 0 to 1" in caplog.text


def test_a_failed_video_has_no_advantage_and_the_others_keep_theirs():
    rewards, prompts = torch.tensor([1.0, math.nan, 3.0, 5.0, math.nan]), ["a", "a", "a", "b", "c"]
    filled = fill_failed(rewards, prompts)
    assert filled.tolist() == [1.0, 2.0, 3.0, 5.0, 0.0]
    group = filled[:3]
    assert ((group - group.mean()) / (group.std() + 1e-4))[1] == 0
    assert rewards.isnan().sum() == 2
    steps = fill_failed(rewards[:, None].repeat(1, 4), prompts)
    assert torch.equal(steps, filled[:, None].repeat(1, 4))
