"""Reward functions of Flow-GRPO and GenRL (LongCat-GRPO): `(videos, prompts, metadata) -> (scores, {})`.

Both look up a factory by its name, `<name>_score(device)`, and call what it returns with the videos of a batch:
Flow-GRPO from several threads, and both with a tensor [N, T, 3, H, W] in [0, 1] or an array [N, T, H, W, 3] in uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from descore.integrations.calling import VideoScorer, log_failures, reward_of, scorer_of
from descore.scoring.asked import Video


class RewardFunction(Protocol):
    """Reward function of a trainer."""

    def __call__(
        self, images: Any, prompts: Iterable[str], metadata: Any = None, only_strict: bool = True
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the reward of each video, [N] float32 with nan for a failed one, and an empty dict."""


def video_score(
    model: str | VideoScorer, *, fps: float, num_thoughts: int = 1, use_norm: bool = False, **options: Any
) -> Callable[[Any], RewardFunction]:
    """Make the factory that a trainer looks up, such as `descore_score`.

    The model is loaded when the factory is first called, once per device.

    Args:
        model: Exported folder, a run, an id on the hub, or a scorer or client.
        fps: Frame rate of the videos that the generator makes; trainers do not pass it.
        num_thoughts: Number of thoughts per video; the reward is the mean over them.
        use_norm: Whether to return normalised rewards.
        **options: Options of `Scorer`, such as `thoughts=False`, which is faster.

    Returns:
        Function of a device. It returns the reward function, whose rewards are on that device. A video that fails has
        reward nan, never 0, and its reason is logged; see `fill_failed` for what to do with it.

    Example:
        descore_score = video_score("runs/stage1", fps=16)  # in the module that the trainer takes rewards from
    """
    loaded: dict[str, VideoScorer] = {}
    lock = Lock()

    def descore_score(device: Any) -> RewardFunction:
        with lock:
            if str(device) not in loaded:
                place = str(torch.device(device)) if isinstance(model, str) else None
                loaded[str(device)] = scorer_of(model, device=place, **options)
        scorer = loaded[str(device)]

        def score(
            images: Any, prompts: Iterable[str], metadata: Any = None, only_strict: bool = True
        ) -> tuple[Tensor, dict[str, Any]]:
            scores = scorer.score(videos_of(images), list(prompts), num_thoughts=num_thoughts, fps=fps)
            log_failures(scores, use_norm=use_norm)
            rewards = [reward_of(one, use_norm=use_norm) for one in scores]
            return torch.tensor(rewards, dtype=torch.float32, device=device), {}

        return score

    return descore_score


def videos_of(images: Any) -> Sequence[Video]:
    """Return the videos of a batch, as trainers pass it.

    Args:
        images: Videos [N, T, 3, H, W] or [N, T, H, W, 3]; images [N, 3, H, W] or [N, H, W, 3], each of which is a video
            of one frame; or a list of videos.

    Raises:
        ValueError: If a tensor or an array has another number of axes.

    >>> [video.shape for video in videos_of(torch.zeros(2, 8, 3, 32, 32))]
    [torch.Size([8, 3, 32, 32]), torch.Size([8, 3, 32, 32])]
    """
    if not isinstance(images, Tensor | np.ndarray):
        return list(images)
    if images.ndim not in {4, 5}:
        raise ValueError(f"expected videos [N, T, 3, H, W] or [N, T, H, W, 3], got {list(images.shape)}")
    return list(images if images.ndim == 5 else images[:, None])


def fill_failed(rewards: Tensor, prompts: Sequence[Any]) -> Tensor:
    """Replace each nan by the mean of the other rewards of its prompt, so that its advantage is zero.

    No trainer does this by itself: one nan makes the mean of its group nan, and with it the advantage of every video of
    the group. A failed video is to pull the generator nowhere. Call this on the rewards of whole groups, which is after
    they were gathered from all ranks. A prompt without any reward gets equal rewards, 0, which have no advantage.

    Args:
        rewards: Reward of each video, [N] or [N, steps]; nan for a failed one.
        prompts: Prompt of each video, or anything that is equal for the videos of a group.

    Returns:
        Rewards without nan, in the shape of `rewards`.

    >>> fill_failed(torch.tensor([1.0, torch.nan, 3.0, torch.nan]), ["a cat", "a cat", "a cat", "a dog"]).tolist()
    [1.0, 2.0, 3.0, 0.0]
    """
    filled = rewards.clone()
    for prompt in dict.fromkeys(prompts):
        members = [place for place, other in enumerate(prompts) if other == prompt]
        group = rewards[members]
        filled[members] = torch.where(group.isnan(), group.nanmean(0).nan_to_num(0.0), group)
    return filled
