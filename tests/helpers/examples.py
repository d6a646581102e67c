"""Frames, prefixes and thoughts for tests, the same in every run."""

from pathlib import Path

import torch

from descore.model.reward_model import RewardModel
from descore.types import Frames, Prefix, Thought


def make_frames(num: int = 4, height: int = 32, width: int = 48, *, seed: int = 0, fps: float = 8.0) -> Frames:
    """Noise, sampled at every fourth frame."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, 3, height, width), generator=generator, dtype=torch.uint8)
    return Frames(pixels, tuple(range(0, 4 * num, 4)), fps, 4 * num)


def make_prefixes(model: RewardModel, num: int) -> list[Prefix]:
    """Prefixes of unequal lengths and videos of unequal sizes."""
    sizes = [(4, 32, 48), (2, 32, 32), (6, 48, 32), (2, 16, 80)]
    return [
        model.processor.prefix("a red circle " * index or "it", make_frames(*sizes[index], seed=index))
        for index in range(num)
    ]


def make_thought(length: int, *, seed: int = 0, closed: bool = True) -> Thought:
    """A thought of random text tokens."""
    token_ids = torch.randint(0, 250, (length,), generator=torch.Generator().manual_seed(seed))
    return Thought(tuple(token_ids.tolist()), closed)


def export_model(model: RewardModel, folder: Path) -> str:
    """Export a model whose rewards are ten times as far apart as they were; return the folder."""
    with torch.no_grad():
        model.head.weight.mul_(10)
    model.save_pretrained(str(folder))
    return str(folder)
