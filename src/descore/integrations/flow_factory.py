"""A reward model for Flow-Factory, named in its configuration as `descore.integrations.flow_factory.DeScoreReward`.

    rewards:
      - name: descore
        reward_model: descore.integrations.flow_factory.DeScoreReward
        model_path: runs/stage1        # exported folder, a run, or an id on the hub
        fps: 16                        # frame rate of the videos that the generator makes
        num_thoughts: 1                # optional; 0 scores without thoughts, which is faster
        use_norm: false                # optional; normalised rewards
        batch_size: 8

The class is made when it is first asked for, since its base class is Flow-Factory's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from descore.integrations.calling import log_failures, reason_of, reward_of, scorer_of

NAME = "DeScoreReward"


def __getattr__(name: str) -> Any:
    if name == NAME:
        return _reward_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _option(config: Any, name: str, default: Any = None) -> Any:
    value = getattr(config, name, default)
    if value is None:
        raise ValueError(f"{NAME} needs {name} in its entry under rewards")
    return value


@cache
def _reward_class() -> type:
    from flow_factory.rewards.abc import PointwiseRewardModel, RewardModelOutput

    class DeScoreReward(PointwiseRewardModel):  # type: ignore[misc]
        """Scores each video of a batch against its prompt; a video that fails has reward nan, never 0."""

        required_fields = ("prompt", "video")
        use_tensor_inputs = True

        def __init__(self, config: Any, accelerator: Any) -> None:
            super().__init__(config, accelerator)
            self.fps = float(_option(config, "fps"))
            self.num_thoughts, self.use_norm = _option(config, "num_thoughts", 1), _option(config, "use_norm", False)
            self.scorer = scorer_of(
                _option(config, "model_path"),
                device=str(self.device),
                dtype=str(self.dtype).removeprefix("torch."),
                thoughts=self.num_thoughts > 0,
            )

        def __call__(
            self,
            prompt: list[str],
            image: Any = None,
            video: Any = None,
            audio: Any = None,
            condition_images: Any = None,
            condition_videos: Any = None,
            **kwargs: Any,
        ) -> Any:
            """Score the videos of a batch, each [T, 3, H, W] in [0, 1]."""
            if video is None:
                raise ValueError(f"{NAME} scores videos, got a batch without them: the generator makes images")
            thoughts = max(self.num_thoughts, 1)
            scores = self.scorer.score(list(video), prompt, num_thoughts=thoughts, fps=self.fps)
            log_failures(scores, use_norm=self.use_norm)
            rewards = [reward_of(score, use_norm=self.use_norm) for score in scores]
            errors = [reason_of(score, use_norm=self.use_norm) for score in scores]
            return RewardModelOutput(
                rewards=torch.tensor(rewards, dtype=torch.float32, device=self.device), extra_info={"errors": errors}
            )

    DeScoreReward.__qualname__ = NAME
    return DeScoreReward
