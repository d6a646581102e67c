"""Weights of the tokens in a loss that averages over thoughts of different lengths."""

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
    """Compute the weight of each token in a loss over N thoughts, the i-th of which has L_i tokens.

        token     1 / sum(L): every token has the same weight (DAPO, arXiv 2503.14476)
        sequence  1 / (N L_i): every thought has the same weight (GRPO, arXiv 2402.03300)
        constant  1 / (N max_tokens): the weight does not depend on the lengths (Dr. GRPO, arXiv 2503.20783)
        vl_norm   L_i^-e / (sum(L^-e) max_tokens): "constant" in expectation, with less variance (arXiv 2509.07558)

    Thoughts without any token under the mask are not counted in N. With weights computed for the whole batch, the
    summed loss does not depend on how the batch is split into parts.

    Args:
        mask: [N, T] which tokens count.
        average: Kind of average: "token", "sequence", "constant" or "vl_norm".
        max_tokens: Constant length, such as the length limit of a thought; required for "constant" and "vl_norm".
        length_exponent: Exponent e of "vl_norm": 1 gives the least variance, less gives long thoughts more weight.
        mean_over_ranks: Function that averages a scalar over the ranks of a run. Ranks average their gradients, so with
            this function a batch spread over ranks has the same loss as on one rank.

    Returns:
        [N, T] float32 weights, 0 outside the mask.

    Raises:
        ValueError: If the average is unknown, or max_tokens is missing.

    >>> mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    >>> token_weights(mask, average="token")
    tensor([[0.2500, 0.2500, 0.2500],
            [0.2500, 0.0000, 0.0000]])
    >>> token_weights(mask, average="sequence")
    tensor([[0.1667, 0.1667, 0.1667],
            [0.5000, 0.0000, 0.0000]])
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
