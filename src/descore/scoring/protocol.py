"""The protocol of scoring: options of how each video is scored, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from descore.inputs.processor import Processor
from descore.inputs.settings import Dtype, ModelSettings, RewardSource
from descore.model.sampling import Sampling
from descore.scoring.folder import Record, ScoringError
from descore.scoring.placing import choose_batch_tokens, choose_dtype
from descore.thinking.readout import ReadoutError, choose_source


@dataclass(frozen=True, slots=True)
class ScoringProtocol:
    """Options of how each video is scored. A run can only be resumed under the protocol it was started with.

    Attributes:
        num_thoughts: Number of thoughts per video; the reward is the mean over them.
        thoughts: Whether the model thinks before it scores.
        temperature: Sampling temperature of the thoughts; 0 (greedy) for one thought, 1 for several if not given.
        reward_from: Source of the reward; the one that the model was trained for if not given. See `Scorer`.
        dtype: Precision of the backbone; that of the run that is resumed, or else bfloat16 on a GPU and float32 on a
            CPU, if not given.
        max_batch_tokens: Number of tokens scored together; that of the run that is resumed, or else as many as the
            memory of the device is for, if not given. Another number changes rewards by rounding errors.

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
    dtype: Dtype | None = None
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        check_count("number of tokens in a batch", self.max_batch_tokens)
        sampling_of(self.num_thoughts, self.temperature, thoughts=self.thoughts)


def check_count(name: str, count: int | None) -> None:
    """Check an option that counts something; None stands for an option that is not given.

    Raises:
        ScoringError: If the count is not a whole number of at least 1.
    """
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise ScoringError(f"expected a {name} of at least 1, got {count!r}")


def check_judgement(settings: ModelSettings, *, pairwise: bool) -> None:
    """Check that a model compares two videos in one context, or that it scores one.

    Raises:
        ScoringError: If it does the other; the message says what to do instead.
    """
    if settings.is_pairwise and not pairwise:
        raise ScoringError(
            "this model compares two videos and gives a single one no reward: compare them with Scorer.compare or POST "
            "/compare, rank several with descore rank, or measure it on pairs with descore evaluate"
        )
    if pairwise and not settings.is_pairwise:
        raise ScoringError(
            "this model scores one video at a time: score both with Scorer.score or POST /score, and compare their "
            "rewards"
        )


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


def describe_protocol(
    processor: Processor, asked: ScoringProtocol, device: torch.device, resumed: Record | None = None
) -> Record:
    """Describe how a model scores each video: all that its rewards depend on but the model itself.

    Args:
        processor: Processor of the model.
        asked: Options of how each video is scored.
        device: Device that the model runs on.
        resumed: Protocol of the run that is resumed, if any, for what is not asked for.

    Returns:
        Plain values for JSON.

    Raises:
        ReadoutError: If the model cannot give the requested reward, or was trained without the requested thoughts.
    """
    settings, resumed = processor.settings, resumed or {}
    thinks = asked.thoughts and settings.thoughts
    if asked.thoughts and not settings.thoughts and (asked.num_thoughts > 1 or asked.temperature is not None):
        raise ReadoutError(
            "this model was trained without thoughts: it gives one reward per video, and has no use for a number of "
            "thoughts or a temperature; leave them out"
        )
    sampling = sampling_of(asked.num_thoughts, asked.temperature, thoughts=thinks)
    dtype = choose_dtype(asked.dtype or resumed.get("dtype"), device)
    text = processor.backbone.config.get_text_config()
    tokens = asked.max_batch_tokens or resumed.get("max_batch_tokens") or choose_batch_tokens(text, device, dtype)
    video = settings.video
    return {
        "kind": "pairwise" if settings.is_pairwise else "pointwise",
        "reward_from": choose_source(settings, asked.reward_from, thoughts=thinks),
        "thoughts": sampling.num_thoughts if thinks else 0,
        "temperature": sampling.temperature if thinks else None,
        "max_thought_tokens": settings.max_thought_tokens,
        "fps": video.fps,
        "min_frames": video.min_frames,
        "max_frames": video.max_frames,
        "min_pixels": video.min_pixels,
        "max_pixels": video.max_pixels,
        "dtype": dtype,
        "max_batch_tokens": tokens,
        **({"fields": list(settings.answer.fields)} if settings.answer.fields else {}),
        **({"choice": asdict(settings.choice)} if settings.is_pairwise else {}),
    }
