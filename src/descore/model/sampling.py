"""How thoughts are sampled, and the distribution that a token is then drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How thoughts are sampled.

    Attributes:
        num_thoughts: Thoughts per video.
        max_tokens: A longer thought is cut there; None takes the model's limit.
        temperature: Divides the logits; 0 takes the most probable token.
        top_p: Keep the most probable tokens that together reach this probability; 1 keeps all.
        top_k: Keep this many of the most probable tokens; 0 keeps all.
        seed: Of the draws.
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
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected above 0 and up to 1, which keeps all tokens")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; expected 0, which keeps all tokens, or more")

    def warp(self, logits: Tensor, sampled: Tensor | None = None) -> Tensor:
        """Turn a model's logits into those of the distribution that is sampled from.

        The temperature comes first, then top-k, then top-p over what is left, as in transformers. Greedy sampling has
        the distribution of temperature 1.

        Args:
            logits: `[M, vocabulary]` float32.
            sampled: `[M]` tokens that stay whatever their rank: a token that was sampled keeps a finite log-probability
                when the model has moved since.

        Returns:
            `[M, vocabulary]`, -inf for a token that cannot be sampled.
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
    """Tokens that are less probable than those that together reach top_p; the most probable one always stays."""
    probability, order = logits.detach().softmax(-1).sort(dim=-1, descending=True)
    before = probability.cumsum(-1) - probability
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)


def _drop(logits: Tensor, dropped: Tensor, sampled: Tensor | None) -> Tensor:
    if sampled is not None:
        dropped = dropped.scatter(-1, sampled[:, None], False)
    return logits.masked_fill(dropped, -torch.inf)
