"""How tokens are averaged: the weight of each in a loss over thoughts of different lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Average = Literal["token", "sequence", "constant", "vl_norm"]


def token_weights(
    mask: Tensor,
    *,
    average: Average = "token",
    max_tokens: int | None = None,
    length_exponent: float = 1.0,
    mean_over_ranks: Callable[[Tensor], Tensor] = lambda total: total,
) -> Tensor:
    """Weight of every token in a loss over N thoughts of L_i tokens; thoughts without a token that counts are left out.

        token     1 / sum of L: all tokens alike (arXiv 2503.14476)
        sequence  1 / (N L_i): all thoughts alike (arXiv 2402.03300)
        constant  1 / (N max_tokens): tokens alike whatever else is in the batch (Dr. GRPO, arXiv 2503.20783)
        vl_norm   L_i^-e / (sum of L^-e max_tokens): as constant in expectation, with less variance (arXiv 2509.07558)

    A loss summed with the weights of a whole batch is the same however the batch is then split.

    Args:
        mask: [N, T] whether a token counts.
        average: Which weights.
        max_tokens: A constant length, such as the limit of a thought; constant and vl_norm need it.
        length_exponent: The exponent e of vl_norm: 1 for the least variance, less to keep more of long thoughts.
        mean_over_ranks: Averages a scalar over the ranks of a run. Ranks average their gradients, so with it a batch
            spread over ranks has the loss that it has on one.

    Returns:
        [N, T] float32, 0 where the mask is off.

    Raises:
        ValueError: If there is no average of that name, or max_tokens is missing.
    """
    num_tokens = mask.bool().sum(dim=1, keepdim=True)
    lengths = num_tokens.clamp(min=1).float()
    alike = torch.ones_like(lengths)
    rules = {
        "token": (lengths, lengths),
        "sequence": (alike, lengths),
        "constant": (alike, max_tokens),
        "vl_norm": (lengths**-length_exponent, max_tokens),
    }
    if average not in rules:
        raise ValueError(f"expected an average among {', '.join(rules)}; got {average!r}")
    importance, divisor = rules[average]
    if divisor is None:
        raise ValueError(f"expected max_tokens with average {average}, got None; pass the length limit of a thought")
    share = torch.where(num_tokens > 0, importance, 0.0)
    share = share / mean_over_ranks(share.sum()).clamp(min=torch.finfo(share.dtype).tiny)
    return mask.bool() * (share / divisor)
