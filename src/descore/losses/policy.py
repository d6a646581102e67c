"""Policy-gradient losses on sampled thoughts, and the KL divergence from a reference policy."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from descore.losses.token_weights import Average, token_weights

PolicyVariant = Literal["grpo", "gspo", "cispo"]

KLEstimator = Literal["low_var", "kl", "abs", "mse"]

MAX_LOG_RATIO = 20.0
"""Largest bound of log-probability ratios, within which their exponential stays finite."""


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    clip_dual: float = 3.0,
    max_log_ratio: float = MAX_LOG_RATIO,
    variant: PolicyVariant = "grpo",
    average: Average = "token",
    max_tokens: int | None = None,
    length_exponent: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the policy-gradient loss of sampled thoughts: `policy_terms`, summed with `token_weights`.

    The defaults are those of DeScore (arXiv 2605.05922): the loss of DAPO (arXiv 2503.14476) with a dual clip.

    Args:
        logprobs: [N, T] log-probability of each token; values outside the mask are ignored, nan included.
        old_logprobs: [N, T] log-probability of each token when it was sampled, without a gradient.
        advantages: [N] advantage of each thought, or [N, T] advantage of each token.
        mask: [N, T] which tokens count.
        clip_low: Distance below 1 at which the probability ratio is clipped.
        clip_high: Distance above 1 at which the probability ratio is clipped.
        clip_dual: Upper bound of the ratio where the advantage is negative, above 1; inf for no bound.
        max_log_ratio: Bound of |log p - log p_old|, beyond which a token has no gradient.
        variant: Name of the loss: "grpo", "gspo" or "cispo"; see `policy_terms`.
        average: Kind of average over tokens: "token", "sequence", "constant" or "vl_norm"; see `token_weights`.
        max_tokens: Constant length for the averages "constant" and "vl_norm".
        length_exponent: Exponent of the average "vl_norm".

    Returns:
        Scalar loss, 0 with a zero gradient if no token counts; and the metrics of `policy_terms`.

    Raises:
        ValueError: If the shapes do not match, a name is unknown, a bound is out of range, or max_tokens is missing.

    The second token's ratio is 2, clipped to 1.3; the loss is -(1 * 1 + 1 * 1.3) / 2:

    >>> old = torch.log(torch.tensor([[0.4, 0.4]]))
    >>> new = torch.log(torch.tensor([[0.4, 0.8]]))
    >>> loss, metrics = policy_loss(new, old, advantages=torch.ones(1), mask=torch.ones(1, 2))
    >>> loss, metrics["clipped_high"]
    (tensor(-1.1500), tensor(0.5000))
    """
    terms, metrics = policy_terms(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        clip_low=clip_low,
        clip_high=clip_high,
        clip_dual=clip_dual,
        max_log_ratio=max_log_ratio,
        variant=variant,
    )
    weights = token_weights(mask, average=average, max_tokens=max_tokens, length_exponent=length_exponent)
    return (weights * terms).sum(), metrics


def policy_terms(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    clip_dual: float = 3.0,
    max_log_ratio: float = MAX_LOG_RATIO,
    variant: PolicyVariant = "grpo",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the policy-gradient loss of each token, with r = p / p_old and A the advantage.

        grpo   -A min(r, 1 + clip_high) where A > 0, -A min(max(r, 1 - clip_low), clip_dual) where A < 0: PPO's clipping
               with separate bounds (DAPO, arXiv 2503.14476), and the dual clip (arXiv 1912.09729)
        gspo   "grpo" with r the geometric mean over the thought, through which each token keeps its own gradient
               (GSPO-token, arXiv 2507.18071). This mean stays close to 1; the paper clips it at 3e-4 and 4e-4.
        cispo  -A clip(r, 1 - clip_low, 1 + clip_high) log p, without a gradient through r (arXiv 2506.13585)

    Args:
        logprobs: [N, T] log-probability of each token; values outside the mask are ignored, nan included.
        old_logprobs: [N, T] log-probability of each token when it was sampled, without a gradient.
        advantages: [N] advantage of each thought, or [N, T] advantage of each token.
        mask: [N, T] which tokens count.
        clip_low: Distance below 1 at which the ratio is clipped.
        clip_high: Distance above 1 at which the ratio is clipped.
        clip_dual: Upper bound of the ratio where the advantage is negative, above 1; inf for no bound.
        max_log_ratio: Bound of |log p - log p_old|, beyond which a token has no gradient.
        variant: Name of the loss: "grpo", "gspo" or "cispo".

    Returns:
        [N, T] float32 loss of each token; and metrics, which are detached means over the tokens that count:
        "entropy" (-log p of the sampled token), "kl_to_old" (log p_old - log p), and the shares of clipped tokens
        "clipped_low", "clipped_high" and "clipped_dual" (not for cispo).

    Raises:
        ValueError: If the shapes do not match, the variant is unknown, or a bound is out of its range.

    >>> old = torch.log(torch.tensor([[0.4, 0.4]]))
    >>> new = torch.log(torch.tensor([[0.4, 0.8]]))
    >>> policy_terms(new, old, advantages=torch.ones(1), mask=torch.ones(1, 2))[0]
    tensor([[-1.0000, -1.3000]])
    """
    _check_policy(logprobs, old_logprobs, advantages, mask, variant)
    if clip_dual <= 1:
        raise ValueError(f"expected clip_dual above 1, got {clip_dual}; pass inf to turn the dual clip off")
    if not 0 < max_log_ratio <= MAX_LOG_RATIO:
        raise ValueError(f"expected max_log_ratio above 0 and at most {MAX_LOG_RATIO:g}, got {max_log_ratio}")
    mask = mask.bool()
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    # Values outside the mask are replaced before they meet a gradient: multiplying by 0 afterwards would leave nan.
    logprobs, old_logprobs, advantages = (
        torch.where(mask, values.float(), 0.0) for values in (logprobs, old_logprobs, advantages)
    )
    log_ratio = logprobs - old_logprobs
    metrics = {"entropy": -logprobs, "kl_to_old": -log_ratio}
    if variant == "gspo":
        log_ratio = _mean_log_ratio(log_ratio, mask)
    ratio = log_ratio.clamp(-max_log_ratio, max_log_ratio).exp()
    low, high = 1 - clip_low, 1 + clip_high
    if variant == "cispo":
        terms = -advantages * ratio.clamp(low, high).detach() * logprobs
        metrics |= {"clipped_low": ratio < low, "clipped_high": ratio > high}
    else:
        punished, praised = advantages < 0, advantages > 0
        terms = -advantages * torch.where(punished, ratio.clamp(low, clip_dual), ratio.clamp(max=high))
        metrics |= {"clipped_low": punished & (ratio < low), "clipped_high": praised & (ratio > high)}
        metrics["clipped_dual"] = punished & (ratio > clip_dual)
    return terms, {name: _masked_mean(value.detach(), mask) for name, value in metrics.items()}


def kl_divergence(logprobs: Tensor, reference_logprobs: Tensor, *, estimator: KLEstimator = "low_var") -> Tensor:
    """Estimate KL(policy || reference) at each sampled token (Schulman, http://joschu.net/blog/kl-approx.html).

    With d = log p - log p_reference, the estimators are "low_var": exp(-d) - 1 + d, which is never negative;
    "kl": d; "abs": |d|; "mse": d^2 / 2.

    Args:
        logprobs: [N, T] log-probability of each token under the policy, finite for padding tokens too.
        reference_logprobs: [N, T] log-probability of each token under the reference policy.
        estimator: Name of the estimator: "low_var", "kl", "abs" or "mse".

    Returns:
        [N, T] float32 estimate at each token, to be summed with `token_weights`.

    Raises:
        ValueError: If the estimator is unknown.

    >>> logprobs, reference = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.5, 0.25]]))
    >>> kl_divergence(logprobs, reference)  # 1/2 - 1 + log 2 at the second token
    tensor([[0.0000, 0.1931]])
    """
    difference = logprobs.float() - reference_logprobs.float()
    if estimator == "low_var":
        difference = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return torch.expm1(-difference) + difference
    if estimator == "kl":
        return difference
    if estimator == "abs":
        return difference.abs()
    if estimator == "mse":
        return difference**2 / 2
    raise ValueError(f"expected an estimator among {', '.join(get_args(KLEstimator))}; got {estimator!r}")


def _mean_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Replace each log-ratio by the mean of its thought, and keep the gradient of the token's own log-ratio."""
    mean = log_ratio.detach().sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return mean + (log_ratio - log_ratio.detach())


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _check_policy(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, variant: str) -> None:
    shapes = [list(tensor.shape) for tensor in (logprobs, old_logprobs, mask, advantages)]
    if mask.ndim != 2 or shapes[:3] != [shapes[2]] * 3 or shapes[3] not in (shapes[2], shapes[2][:1]):
        raise ValueError(f"expected logprobs, old_logprobs and mask [N, T] and advantages [N] or [N, T], got {shapes}")
    if variant not in get_args(PolicyVariant):
        raise ValueError(f"expected a variant among {', '.join(get_args(PolicyVariant))}; got {variant!r}")
