"""Best-of-N: the videos of one prompt from the best to the worst, and how sure each place is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from descore.scoring.score import Score


@dataclass(frozen=True, slots=True)
class Ranked:
    """A video and its place among the videos of its prompt.

    Attributes:
        index: Index of the video in the order in which the videos were given.
        score: Its score record.
        margin: Its reward less that of the next video; None if there is none, or this one has no reward.
        probability: Probability that it is better than the next video, as the model compares them, or else by
            `probability_better`; None where it is not known.
    """

    index: int
    score: Score
    margin: float | None = None
    probability: float | None = None


def rank(scores: Sequence[Score], wins: Sequence[Sequence[float]] | None = None) -> list[Ranked]:
    """Rank scored videos by their rewards, the best first; equal ones stay in their order, and failed ones come last.

    Args:
        scores: Score record of each video.
        wins: Probability that one video is better than another, `[N][N]`, from a model that compares them; from the
            spread of their rewards if not given.

    >>> ranked = rank([Score(0.5), Score(math.nan, error="gone.mp4: no such file"), Score(2.0)])
    >>> [(one.index, one.margin) for one in ranked]
    [(2, 1.5), (0, None), (1, None)]
    """
    order = sorted(range(len(scores)), key=lambda index: _place(scores[index]))
    ranked = []
    for place, index in enumerate(order):
        after = [scores[other] for other in order[place + 1 : place + 2]]
        known = [other for other in after if other.error is None]
        margin = scores[index].reward - known[0].reward if known else None
        if wins is None:
            better = probability_better(scores[index], *known) if known else None
        else:
            found = wins[index][order[place + 1]] if known else math.nan
            better = None if math.isnan(found) else float(found)
        ranked.append(Ranked(index, scores[index], margin, better))
    return ranked


def probability_better(one: Score, other: Score) -> float | None:
    """Return the probability that a video is better than another, from the spread of their rewards over thoughts.

    The reward is a mean over sampled thoughts. The probability is that of the difference of two such means to be above
    0, by Student's t with the standard errors and the degrees of freedom of Welch's test. It tells how sure the model
    is of its own order, not how often people agree with it.

    Args:
        one: Score record of the video.
        other: Score record of the other one.

    Returns:
        The probability; None if one of them has fewer than two rewards. Without any spread it is 1, 0, or for equal
        rewards 0.5.

    >>> def score(*rewards):
    ...     mean = sum(rewards) / len(rewards)
    ...     std = (sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)) ** 0.5
    ...     return Score(mean, reward_std=std, each=tuple(Score(reward) for reward in rewards))
    >>> round(probability_better(score(1.0, 2.0, 3.0), score(0.0, 1.0, 2.0)), 3)
    0.856
    """
    if one.reward_std is None or other.reward_std is None:
        return None
    variances = [score.reward_std**2 / _num_rewards(score) for score in (one, other) if score.reward_std is not None]
    margin, total = one.reward - other.reward, sum(variances)
    if total == 0:
        return 0.5 if margin == 0 else float(margin > 0)
    parts = zip(variances, (one, other), strict=True)
    freedom = total**2 / sum(variance**2 / (_num_rewards(score) - 1) for variance, score in parts)
    return float(stats.t.cdf(margin / math.sqrt(total), freedom))


def _place(score: Score) -> tuple[bool, float]:
    return (True, 0.0) if score.error is not None else (False, -score.reward)


def _num_rewards(score: Score) -> int:
    return sum(one.error is None for one in score.each)
