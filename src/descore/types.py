"""What passes between the rooms: frozen dataclasses, one shape comment per tensor."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor

DIMENSIONS = ("subject", "dynamics", "camera", "environment", "style")
"""The five things a thought scores. The first two are primary, the others secondary."""

DimensionScores = dict[str, int | None]
"""One score per dimension: 2 perfect, 1 partial, 0 failed, None where the prompt does not ask for it (N/A)."""


@dataclass(frozen=True, slots=True)
class Side:
    """One video of a pair and what is known of it.

    Attributes:
        video: Path of the video file.
        thought: The teacher's thought with its `<answer>` block; empty when there is none.
        scores: The annotated dimension scores, the truth that the rollout reward compares with.
        mos: Mean opinion score per reward dimension; empty when the table has none.
    """

    video: str
    thought: str = ""
    scores: DimensionScores | None = None
    mos: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, two videos, and which one people prefer.

    Attributes:
        id: Unique name in its table; every random draw about the pair is keyed by it.
        prompt: The text the videos were generated from.
        a: Video A.
        b: Video B.
        preference: One per reward dimension: +1 prefers A, -1 prefers B, 0 tie, nan no usable label.
    """

    id: str
    prompt: str
    a: Side
    b: Side
    preference: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Frames:
    """The sampled frames of one video, at the size the backbone reads.

    Attributes:
        pixels: RGB frames.
        indices: Index of each frame in the source video.
        source_fps: Frame rate of the source video, in frames per second.
        num_source_frames: Number of frames of the source video.
    """

    pixels: Tensor  # [T, 3, H, W] uint8
    indices: tuple[int, ...]
    source_fps: float
    num_source_frames: int
