"""DeScore: think, then score. A reward model for generated video."""

from descore.model import RewardModel
from descore.scoring import Scorer
from descore.types import Score

__all__ = ["RewardModel", "Score", "Scorer"]
