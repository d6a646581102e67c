"""A test of an installation: a tiny model, which ships with the package, scores a clip that is written for it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from descore.inputs.backbone import TINY
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import Dtype, ModelSettings
from descore.model.reward_model import RewardModel
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from descore.video.settings import VideoSettings
from descore.video.writer import write_video

PROMPT = "A white bar moves to the right."


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Result of `run_self_test`.

    Attributes:
        seconds: Time that it took.
        error: What was being done when it failed, and why; None if all is well.
    """

    seconds: float
    error: str | None = None


def run_self_test(device: str | None = None, dtype: Dtype | None = None) -> SelfTest:
    """Write a clip, export the tiny model, load it, and score the clip with a thought and without.

    Args:
        device: Device to run on; the GPU if there is one, or else the CPU, if not given.
        dtype: Precision of the backbone; bfloat16 on a GPU and float32 on a CPU if not given.
    """
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="descore-") as folder:
            _run(Path(folder), device, dtype)
    except _StepFailed as failed:
        return SelfTest(time.monotonic() - begun, str(failed))
    return SelfTest(time.monotonic() - begun)


class _StepFailed(Exception):
    """A step of the test that failed."""


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Context manager: whatever a broken installation raises becomes a failure of this step."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise _StepFailed(f"{name}: {type(error).__name__}{reason and ': '}{reason}") from error


def _run(folder: Path, device: str | None, dtype: Dtype | None) -> None:
    with _step("writing a video"):
        write_video(folder / "bar.mp4", _moving_bar(), fps=8)
    with _step("exporting the tiny model"):
        video = VideoSettings(fps=4.0, min_frames=8, max_frames=8, min_pixels=2304, max_pixels=2304)
        settings = ModelSettings(TINY, PromptTemplate.read("rendered").text, video, max_thought_tokens=48)
        RewardModel.create(settings).save_pretrained(str(folder / "export"))
    with _step("loading the tiny model"):
        scorer = Scorer(str(folder / "export"), device=device, dtype=dtype)
    for name, thought in (("scoring with a thought", None), ("scoring without a thought", "")):
        with _step(name):
            (score,) = scorer.score(str(folder / "bar.mp4"), PROMPT, thought=thought)
            _check(score)


def _check(score: Score) -> None:
    if score.error is not None or not math.isfinite(score.reward):
        raise RuntimeError(score.error or f"expected a finite reward, got {score.reward}")


def _moving_bar() -> Tensor:
    """Return 16 frames [16, 3, 64, 64] uint8 of a white bar that moves over a gradient."""
    frames = torch.linspace(0, 160, 64).expand(16, 3, 64, 64).clone()
    for index in range(16):
        frames[index, :, :, 3 * index : 3 * index + 6] = 255
    return frames.byte()
