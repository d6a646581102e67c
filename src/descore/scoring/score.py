"""The score record: what is known of one scored video."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from descore.types import DimensionScores


@dataclass(frozen=True, slots=True)
class Score:
    """Score record of one video, the same from Python and from the command line.

    Attributes:
        reward: Reward of the video; with several thoughts the mean over those that have one; nan if the video failed.
        rewards: Each reward by name if the model gives several, and `reward` is their sum; empty otherwise.
        thought: Text of the thought, of the first one if there are several; empty if scored without a thought.
        dimension_scores: Dimension scores that the thought states; None if its answer is invalid.
        overall_score: Overall score that the thought states, or the mean or sum of the fields of its answer; None if it
            states none or its answer is invalid.
        num_thought_tokens: Length of the thought in tokens.
        truncated: Whether the thought was cut off at the length limit.
        reward_std: Standard deviation of the reward over the thoughts; None with fewer than two rewards.
        each: Record of each thought if there are several; empty otherwise.
        normalised_reward: The reward in units of the standard deviation over the validation pairs of the training, with
            mean 0 there; None if the export does not know them.
        error: Reason why the video has no reward; None if it has one.

    >>> Score(reward=float("nan"), error="gone.mp4: no such file").to_json()["reward"] is None
    True
    """

    reward: float
    rewards: dict[str, float] = field(default_factory=dict)
    thought: str = ""
    dimension_scores: DimensionScores | None = None
    overall_score: float | None = None
    num_thought_tokens: int = 0
    truncated: bool = False
    reward_std: float | None = None
    each: tuple[Score, ...] = ()
    normalised_reward: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain values for JSON: None (null) for a nan reward, "N/A" for a dimension not asked."""
        values = asdict(self) | {"each": [score.to_json() for score in self.each]}
        if math.isnan(self.reward):
            values["reward"] = None
        if self.dimension_scores is not None:
            values["dimension_scores"] = {n: "N/A" if v is None else v for n, v in self.dimension_scores.items()}
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Score:
        """Return the record that `to_json` gave: nan for a null reward, None for "N/A".

        >>> Score.from_json(Score(1.5, dimension_scores={"camera": None}).to_json()).dimension_scores
        {'camera': None}
        """
        known = {name: value for name, value in values.items() if name in cls.__slots__}
        known["reward"] = math.nan if known.get("reward") is None else float(known["reward"])
        known["rewards"] = {n: math.nan if v is None else v for n, v in known.get("rewards", {}).items()}
        known["each"] = tuple(cls.from_json(one) for one in known.get("each", ()))
        if scores := known.get("dimension_scores"):
            known["dimension_scores"] = {name: None if value == "N/A" else value for name, value in scores.items()}
        return cls(**known)
