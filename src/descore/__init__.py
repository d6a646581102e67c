"""DeScore: think, then score. A reward model for generated video."""

from descore.model.reward_model import RewardModel
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer

__all__ = ["RewardModel", "Score", "Scorer"]
