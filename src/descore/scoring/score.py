"""The score record."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from descore.types import DimensionScores


@dataclass(frozen=True, slots=True)
class Score:
    """The score record: what the command line, Python and the server report for one video.

    Attributes:
        reward: The scalar of the head, over several thoughts their mean; nan when the item failed.
        rewards: Every reward by name, when the model gives several; `reward` is then their sum.
        thought: The thought that was scored, the first of several; empty when scored without one.
        dimension_scores: The scores that thought gives, or None when its answer is not legal.
        overall_score: The overall score that thought gives, or None.
        num_thought_tokens: Its length.
        truncated: Whether it was cut at the length limit.
        reward_std: Standard deviation over several thoughts, or None.
        each: One record per thought, when there are several.
        error: Why the item failed, or None.
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
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON: null where a number is nan, "N/A" where a dimension is not asked for."""
        values = asdict(self) | {"each": [score.to_json() for score in self.each]}
        if math.isnan(self.reward):
            values["reward"] = None
        if self.dimension_scores is not None:
            values["dimension_scores"] = {n: "N/A" if v is None else v for n, v in self.dimension_scores.items()}
        return values
