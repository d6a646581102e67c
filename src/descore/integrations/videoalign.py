"""The reward interface of VideoAlign, which DanceGRPO and others call: `.reward(paths, prompts, use_norm=...)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from descore.integrations.calling import VideoScorer, log_failures, reason_of, reward_of, scorer_of
from descore.scoring.score import Score

OVERALL = "Overall"


class VideoAlignReward:
    """Scores video files where a trainer expects VideoAlign's `VideoVLMRewardInference`.

    Args:
        model: Exported folder, a run, an id on the hub, or a scorer or client.
        keys: Keys that the trainer reads beside "Overall". Each is the reward of that name, raw, if the model gives
            several rewards, one of this name; otherwise it is the overall reward.
        num_thoughts: Number of thoughts per video; the reward is the mean over them.
        **options: Options of `Scorer`, such as `device="cuda:0"`.

    Example:
        inferencer = VideoAlignReward("runs/stage1", device="cuda:0")
        inferencer.reward(["/videos/a.mp4"], ["a cat"], use_norm=True)[0]["VQ"]
    """

    def __init__(
        self,
        model: str | VideoScorer,
        *,
        keys: Sequence[str] = ("VQ", "MQ", "TA"),
        num_thoughts: int = 1,
        **options: Any,
    ) -> None:
        self.scorer = scorer_of(model, **options)
        self.keys, self.num_thoughts = tuple(keys), num_thoughts

    def reward(
        self,
        video_paths: Sequence[str],
        prompts: Sequence[str],
        fps: float | None = None,
        num_frames: int | None = None,
        max_pixels: int | None = None,
        use_norm: bool = True,
    ) -> list[dict[str, Any]]:
        """Score video files, each against its prompt.

        Args:
            video_paths: Paths of the video files.
            prompts: Prompt of each.
            fps: To be left out: a model samples frames as it was trained to.
            num_frames: To be left out.
            max_pixels: To be left out.
            use_norm: Whether to return normalised rewards.

        Returns:
            For each video "Overall" and each of the keys. All are nan for a video that failed, never 0 or -1, and
            "error" says why.

        Raises:
            ValueError: If a setting of the frames is given.
        """
        if given := {"fps": fps, "num_frames": num_frames, "max_pixels": max_pixels}.items() - _NOT_GIVEN:
            names = ", ".join(sorted(name for name, _ in given))
            raise ValueError(f"leave out {names}: the model reads frames as it was trained to")
        scores = self.scorer.score(list(video_paths), list(prompts), num_thoughts=self.num_thoughts)
        log_failures(scores, use_norm=use_norm)
        return [self._rewards(score, use_norm) for score in scores]

    def _rewards(self, score: Score, use_norm: bool) -> dict[str, Any]:
        overall, reason = reward_of(score, use_norm=use_norm), reason_of(score, use_norm=use_norm)
        rewards: dict[str, Any] = {OVERALL: overall}
        for key in self.keys:
            rewards[key] = math.nan if reason else score.rewards.get(key, overall)
        return rewards | ({"error": reason} if reason else {})


_NOT_GIVEN = {("fps", None), ("num_frames", None), ("max_pixels", None)}
