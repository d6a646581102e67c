"""The protocol of scoring: options of how each video is scored, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from descore.inputs.settings import ModelSettings, RewardSource
from descore.model.sampling import Sampling
from descore.scoring.folder import Record, ScoringError
from descore.thinking.readout import ReadoutError, choose_source


@dataclass(frozen=True, slots=True)
class ScoringProtocol:
    """Options of how each video is scored. A run can only be resumed under the protocol it was started with.

    Attributes:
        num_thoughts: Number of thoughts per video; the reward is the mean over them.
        thoughts: Whether the model thinks before it scores.
        temperature: Sampling temperature of the thoughts; 0 (greedy) for one thought, 1 for several if not given.
        reward_from: Source of the reward; the one that the model was trained for if not given. See `Scorer`.
        batch_size: Number of videos scored together. Another size changes rewards by rounding errors.

    Raises:
        ScoringError: If an option is out of its range, or contradicts another one.

    >>> ScoringProtocol(num_thoughts=3, thoughts=False)
    Traceback (most recent call last):
    descore.scoring.folder.ScoringError: num_thoughts is 3, which contradicts scoring without thoughts
    """

    num_thoughts: int = 1
    thoughts: bool = True
    temperature: float | None = None
    reward_from: RewardSource | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_count("batch size", self.batch_size)
        sampling_of(self.num_thoughts, self.temperature, thoughts=self.thoughts)


def check_count(name: str, count: int | None) -> None:
    """Check an option that counts something; None stands for an option that is not given.

    Raises:
        ScoringError: If the count is not a whole number of at least 1.
    """
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise ScoringError(f"expected a {name} of at least 1, got {count!r}")


def sampling_of(num_thoughts: int, temperature: float | None, *, thoughts: bool) -> Sampling:
    """Return the sampling options of a video's thoughts.

    Args:
        num_thoughts: Number of thoughts per video.
        temperature: Sampling temperature; 0 (greedy) for one thought, 1 for several if not given.
        thoughts: Whether the model thinks at all.

    Raises:
        ScoringError: If a number is out of its range, or is given although the model does not think.

    >>> sampling_of(1, None, thoughts=True).temperature, sampling_of(4, None, thoughts=True).temperature
    (0.0, 1.0)
    """
    check_count("number of thoughts", num_thoughts)
    if not thoughts and num_thoughts > 1:
        raise ScoringError(f"num_thoughts is {num_thoughts}, which contradicts scoring without thoughts")
    if not thoughts and temperature is not None:
        raise ScoringError(f"temperature is {temperature:g}, which contradicts scoring without thoughts")
    if temperature is None:
        temperature = 0.0 if num_thoughts == 1 else 1.0
    try:
        return Sampling(num_thoughts, temperature=temperature)
    except ValueError as error:
        raise ScoringError(str(error)) from error


def describe_protocol(settings: ModelSettings, asked: ScoringProtocol) -> Record:
    """Describe how a model with these settings scores each video: all that its rewards depend on but the model itself.

    Args:
        settings: Settings of the model.
        asked: Options of how each video is scored.

    Returns:
        Plain values for JSON.

    Raises:
        ReadoutError: If the model cannot give the requested reward, or was trained without the requested thoughts.
    """
    thinks = asked.thoughts and settings.thoughts
    if asked.thoughts and not settings.thoughts and (asked.num_thoughts > 1 or asked.temperature is not None):
        raise ReadoutError(
            "this model was trained without thoughts: it gives one reward per video, and has no use for a number of "
            "thoughts or a temperature; leave them out"
        )
    sampling = sampling_of(asked.num_thoughts, asked.temperature, thoughts=thinks)
    video = settings.video
    return {
        "kind": "pointwise",
        "reward_from": choose_source(settings, asked.reward_from, thoughts=thinks),
        "thoughts": sampling.num_thoughts if thinks else 0,
        "temperature": sampling.temperature if thinks else None,
        "fps": video.fps,
        "min_frames": video.min_frames,
        "max_frames": video.max_frames,
        "min_pixels": video.min_pixels,
        "max_pixels": video.max_pixels,
        "batch_size": asked.batch_size,
    }
