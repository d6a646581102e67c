"""DeScore: think, then score. A reward model for generated video."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["Comparison", "RewardModel", "Score", "Scorer", "__version__"]
__version__ = "0.1.0"

# Turns that a thread waits for the others before it sleeps; OpenMP reads it when torch is loaded. Threads of a small
# model meet every few microseconds, and where another process keeps a core, they would spin until the scheduler moves
# it. docs/benchmarks.md has what was measured.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

if TYPE_CHECKING:
    from descore.model.reward_model import RewardModel
    from descore.pairwise.comparison import Comparison
    from descore.scoring.score import Score
    from descore.scoring.scorer import Scorer
else:
    # A name is imported when it is first used, since torch and transformers take seconds to import.
    _MODULES = {
        "Comparison": "descore.pairwise.comparison",
        "RewardModel": "descore.model.reward_model",
        "Score": "descore.scoring.score",
        "Scorer": "descore.scoring.scorer",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
