"""Best-of-N with a diffusers pipeline: sample videos from several seeds, and keep the one with the highest reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from descore.integrations.calling import VideoScorer
from descore.scoring.folder import ScoringError
from descore.scoring.protocol import check_count
from descore.scoring.score import Score
from descore.selection.ranking import Ranked, rank


@dataclass(frozen=True, slots=True)
class BestOfN:
    """Result of `best_of_n`.

    Attributes:
        frames: Frames of the best video, [T, H, W, 3] in [0, 1].
        seed: Seed of the best video: `torch.Generator("cpu").manual_seed(seed)` gives it again.
        score: Score record of the best video.
        ranked: All videos, the best first; video i is of the seed `first_seed + i`.
    """

    frames: NDArray[Any]
    seed: int
    score: Score
    ranked: list[Ranked]


def best_of_n(
    pipeline: Any,
    prompt: str,
    scorer: VideoScorer,
    *,
    n: int,
    fps: float,
    first_seed: int = 0,
    num_thoughts: int = 1,
    **options: Any,
) -> BestOfN:
    """Sample n videos of a prompt and return the best; only the frames of the best so far are kept in memory.

    Args:
        pipeline: Video pipeline of diffusers, such as a WanPipeline.
        prompt: Text to generate the videos from.
        scorer: `Scorer`, or a client of a server.
        n: Number of videos.
        fps: Frame rate of the videos, in frames per second.
        first_seed: Seed of the first video; the others have those that follow.
        num_thoughts: Number of thoughts per video; with several, `ranked` says how sure each place is.
        **options: Further arguments of the pipeline, such as `num_frames=81` and `guidance_scale=5.0`.

    Raises:
        ScoringError: If n is no number of videos, or no video has a reward; the message has the first reason.

    Example:
        best = best_of_n(pipe, "A red circle moves left.", Scorer("runs/stage1"), n=8, fps=16, num_frames=81)
        export_to_video(best.frames, "best.mp4", fps=16)
    """
    check_count("number of videos", n)
    scores: list[Score] = []
    best: NDArray[Any] | None = None
    highest = -np.inf
    for seed in range(first_seed, first_seed + n):
        generator = torch.Generator("cpu").manual_seed(seed)
        frames = np.asarray(pipeline(prompt=prompt, generator=generator, output_type="np", **options).frames[0])
        (score,) = scorer.score([frames], [prompt], num_thoughts=num_thoughts, fps=fps)
        scores.append(score)
        if score.error is None and score.reward > highest:
            best, highest = frames, score.reward
    ranked = rank(scores)
    if best is None:
        raise ScoringError(f"none of {n} videos has a reward; the first one: {scores[0].error}")
    return BestOfN(best, first_seed + ranked[0].index, ranked[0].score, ranked)
