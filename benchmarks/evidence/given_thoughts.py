"""Rewards of thoughts that are given: the head is fixed, and what it reads is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from descore.model.reward_model import RewardModel
from descore.types import Branches, Pair

BATCH = 64  # videos


@torch.no_grad()
def given_margins(model: RewardModel, pairs: Sequence[Pair], texts: Sequence[Sequence[str]]) -> Tensor:
    """Score every video with each of the thoughts it is given.

    Args:
        model: A model with one reward.
        pairs: N pairs.
        texts: The thoughts of A, B, A, B ..., as many for every video; "" is none.

    Returns:
        Reward of A minus reward of B, `[N, thoughts]`.
    """
    rewards = torch.cat([model(branches).rewards[:, 0] for branches in packed(model, pairs, texts)])
    by_video = rewards.view(len(pairs), 2, -1)
    return by_video[:, 0] - by_video[:, 1]


def packed(model: RewardModel, pairs: Sequence[Pair], texts: Sequence[Sequence[str]]) -> Iterator[Branches]:
    """Pack the same videos and thoughts, some videos at a time."""
    processor = model.processor
    videos = [(pair.prompt, side.video) for pair in pairs for side in (pair.a, pair.b)]
    for start in range(0, len(videos), BATCH):
        chosen = slice(start, start + BATCH)
        prefixes = [processor.prefix(prompt, processor.read(video)) for prompt, video in videos[chosen]]
        thoughts = [[processor.thought(text) for text in row] for row in texts[chosen]]
        yield processor.pack(prefixes, thoughts)
