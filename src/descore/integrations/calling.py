"""What every integration does: call a scorer or a client, and hand on a reward or the reason why there is none."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Protocol

from descore.scoring.score import Score
from descore.scoring.scorer import Scorer

logger = logging.getLogger(__name__)


class VideoScorer(Protocol):
    """What gives score records: a `Scorer`, or a client of a server."""

    def score(self, videos: Any, prompts: Any, *, num_thoughts: int = 1, fps: float | None = None) -> list[Score]:
        """Score videos, each against its prompt; `fps` is the frame rate of those that are given as frames."""


def scorer_of(model: str | VideoScorer, **options: Any) -> VideoScorer:
    """Return the scorer of an exported folder or hub id, or the given scorer.

    Args:
        model: Exported folder, a run, an id on the hub, or an object that scores.
        **options: Options of `Scorer`; those that are None are as if not given.

    Raises:
        TypeError: If there are options for an object that scores.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(model, str):
        return Scorer(model, **given)
    if given:
        raise TypeError(f"{', '.join(given)} go with a path of a model, got {type(model).__name__}, which has its own")
    return model


def reward_of(score: Score, *, use_norm: bool) -> float:
    """Return the reward of a record, raw or normalised; nan if there is none."""
    if score.error is not None:
        return math.nan
    if not use_norm:
        return score.reward
    return math.nan if score.normalised_reward is None else score.normalised_reward


def reason_of(score: Score, *, use_norm: bool) -> str | None:
    """Return why a record has no such reward; None if it has one."""
    if score.error is None and use_norm and score.normalised_reward is None:
        return "the model does not know the mean and deviation of its rewards: ask for raw ones, use_norm=False"
    return score.error


def log_failures(scores: Sequence[Score], *, use_norm: bool) -> None:
    """Warn of the videos that have no reward, with the first reasons, in one line."""
    if reasons := [reason for score in scores if (reason := reason_of(score, use_norm=use_norm))]:
        different = list(dict.fromkeys(reasons))[:3]
        logger.warning("%d of %d videos have no reward (nan): %s", len(reasons), len(scores), "; ".join(different))
