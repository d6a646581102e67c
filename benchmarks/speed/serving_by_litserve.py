# ruff: noqa: D102 - the methods are those of LitAPI
"""The other side of `serving.py`: the same model behind LitServe, with batches of 8.

python -m benchmarks.speed.serving_by_litserve MODEL PORT
"""

import sys
from collections.abc import Sequence
from typing import Any

import litserve  # type: ignore[import-not-found]

from descore.scoring.scorer import Scorer


class Scores(litserve.LitAPI):  # type: ignore[misc]
    """Takes what `descore serve` takes at /score, a path and a prompt."""

    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=8, batch_timeout=0.01)
        self.model = model

    def setup(self, device: str) -> None:
        self.scorer = Scorer(self.model, device=device)

    def decode_request(self, request: dict[str, Any]) -> tuple[str, str]:
        return request["video"]["path"], request["prompt"]

    def predict(self, batch: Sequence[tuple[str, str]]) -> list[float]:
        return [score.reward for score in self.scorer.score(*zip(*batch, strict=True))]

    def encode_response(self, reward: float) -> dict[str, float]:
        return {"reward": reward}


if __name__ == "__main__":
    model, port = sys.argv[1:]
    litserve.LitServer(Scores(model), accelerator="auto", timeout=False).run(host="127.0.0.1", port=int(port))
