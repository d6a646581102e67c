"""Sampling options of thoughts, and the token distribution that they define."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Sampling options of thoughts.

    Attributes:
        num_thoughts: Number of thoughts per video.
        max_tokens: Length limit of a thought in tokens; a longer one is cut off. The model's own limit if not given.
        temperature: Divisor of the logits: 1 samples from the model's distribution, less sharpens it, and 0 always
            takes the most probable token (greedy).
        top_p: Nucleus sampling: only the most probable tokens that together reach this probability may be sampled; 1
            allows all.
        top_k: Number of most probable tokens that may be sampled; 0 allows all.
        seed: Seed of the sampled tokens.

    Raises:
        ValueError: If an option is out of its range.
    """

    num_thoughts: int = 1
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_thoughts < 1:
            raise ValueError(f"num_thoughts is {self.num_thoughts}; expected at least 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; expected at least 1, or None for the model's limit")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; expected 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected above 0 and up to 1, which allows all tokens")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; expected 0, which allows all tokens, or above")

    def warp(self, logits: Tensor, sampled: Tensor | None = None) -> Tensor:
        """Turn a model's logits into those of the distribution that tokens are sampled from.

        Temperature is applied first, then top-k, then top-p over the remaining tokens, as in transformers. Greedy
        sampling (temperature 0) keeps the distribution of temperature 1.

        Args:
            logits: `[M, vocabulary]` float32 logits of the model.
            sampled: `[M]` tokens that are never excluded. Pass the tokens of an earlier thought when its
                log-probabilities are computed again: the model may have changed since, and top-k or top-p would now
                give some of them probability 0.

        Returns:
            `[M, vocabulary]` logits, -inf for tokens that cannot be sampled.

        >>> Sampling(temperature=0.5, top_k=2).warp(torch.tensor([[1.0, 3.0, 2.0]])).tolist()
        [[-inf, 6.0, 4.0]]
        """
        if self.temperature not in (0.0, 1.0):
            logits = logits / self.temperature
        if self.top_k:
            rank = min(self.top_k, logits.shape[-1])
            logits = _drop(logits, logits < logits.topk(rank).values[:, -1:], sampled)
        if self.top_p < 1:
            logits = _drop(logits, _beyond(logits, self.top_p), sampled)
        return logits


def _beyond(logits: Tensor, top_p: float) -> Tensor:
    """Mask the tokens less probable than those that together reach top_p; the most probable one is never masked."""
    probability, order = logits.detach().softmax(-1).sort(dim=-1, descending=True)
    before = probability.cumsum(-1) - probability
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)


def _drop(logits: Tensor, dropped: Tensor, sampled: Tensor | None) -> Tensor:
    if sampled is not None:
        dropped = dropped.scatter(-1, sampled[:, None], False)
    return logits.masked_fill(dropped, -torch.inf)
