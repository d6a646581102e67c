"""The settings of the frame tool."""

from __future__ import annotations

from dataclasses import dataclass

MOST = 36_000
"""Largest value of a setting: the most frames that a video may have."""


@dataclass(frozen=True)
class FrameTool:
    """A tool by which a model asks for frames of a video that it has not seen, as in VR-Thinker (arXiv 2510.10518).

    The frames that `VideoSettings` samples are those that it can ask for, by their numbers from 1 on.

    Attributes:
        first_frames: Number of frames, at equal distances from the first to the last, that the model sees at once.
        frames_per_call: Largest number of frames that one call may ask for.
        max_calls: Number of calls that are answered; what the model says after the last one is its answer.

    Raises:
        ValueError: If a value is not a whole number from 1 on.
    """

    first_frames: int = 8
    frames_per_call: int = 8
    max_calls: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
                raise ValueError(f"expected a whole number from 1 to {MOST} for {name}, got {value!r}")
