"""Policy-gradient losses on sampled thoughts, and the KL divergence to a reference."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from descore.losses.token_weights import Average, token_weights

PolicyVariant = Literal["grpo", "gspo", "cispo"]

KLEstimator = Literal["low_var", "kl", "abs", "mse"]

MAX_LOG_RATIO = 20.0


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    clip_dual: float = 3.0,
    variant: PolicyVariant = "grpo",
    average: Average = "token",
    max_tokens: int | None = None,
    length_exponent: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy gradient on sampled thoughts: `policy_terms` summed with `token_weights`, which explain the arguments.

    The defaults are DeScore's: the loss of DAPO (arXiv 2503.14476) with a dual clip.

    Returns:
        Scalar, 0 with a zero gradient when no token counts, and the metrics of `policy_terms`.
    """
    terms, metrics = policy_terms(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        clip_low=clip_low,
        clip_high=clip_high,
        clip_dual=clip_dual,
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
    variant: PolicyVariant = "grpo",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy loss of every token, with r = p / p_old and A its advantage.

        grpo   -A min(r, 1 + clip_high) where A > 0, -A min(max(r, 1 - clip_low), clip_dual) where A < 0: PPO's clipping
               with an upper bound of its own (arXiv 2503.14476), and the dual clip (arXiv 1912.09729)
        gspo   the same, with r the geometric mean over the thought and each token keeping its gradient (arXiv
               2507.18071, GSPO-token); that mean hardly moves, and the paper clips it at 3e-4 and 4e-4
        cispo  -A clip(r, 1 - clip_low, 1 + clip_high) log p, without a gradient through r (arXiv 2506.13585)

    Args:
        logprobs: [N, T] log-probability of each token; anything, nan included, where the mask is off.
        old_logprobs: [N, T] the same when the token was sampled, without a gradient.
        advantages: [N], or [N, T] for one per token.
        mask: [N, T] whether a token counts.
        clip_low: How far below 1 a ratio may fall.
        clip_high: How far above 1 it may rise.
        clip_dual: Bound of the ratio where the advantage is negative, above 1; inf for none.
        variant: Which loss.

    Returns:
        [N, T] float32, and metrics: detached means over the tokens that count of "entropy" (-log p of what was
        sampled), "kl_to_old" (log p_old - log p), "clipped_low", "clipped_high" and "clipped_dual" (cispo has none).

    Raises:
        ValueError: If shapes do not fit, there is no variant of that name, or clip_dual is not above 1.
    """
    _check_policy(logprobs, old_logprobs, advantages, mask, clip_dual, variant)
    mask = mask.bool()
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    # What lies under the mask is replaced before it meets a gradient: multiplying by 0 afterwards would leave nan.
    logprobs, old_logprobs, advantages = (
        torch.where(mask, values.float(), 0.0) for values in (logprobs, old_logprobs, advantages)
    )
    log_ratio = logprobs - old_logprobs
    metrics = {"entropy": -logprobs, "kl_to_old": -log_ratio}
    if variant == "gspo":
        log_ratio = _mean_log_ratio(log_ratio, mask)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
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
    """Estimate KL(policy || reference) at every sampled token (http://joschu.net/blog/kl-approx.html).

    With d = log p - log p_reference: "low_var" exp(-d) - 1 + d, never negative; "kl" d; "abs" |d|; "mse" d^2 / 2.

    Args:
        logprobs: [N, T] log-probability of each token, finite under the padding too.
        reference_logprobs: [N, T] the same under the reference.
        estimator: Which estimator.

    Returns:
        [N, T] float32; to be summed with `token_weights`.

    Raises:
        ValueError: If there is no estimator of that name.
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
    mean = log_ratio.detach().sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return mean + (log_ratio - log_ratio.detach())


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _check_policy(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_dual: float, variant: str
) -> None:
    shapes = [list(tensor.shape) for tensor in (logprobs, old_logprobs, mask, advantages)]
    if mask.ndim != 2 or shapes[:3] != [shapes[2]] * 3 or shapes[3] not in (shapes[2], shapes[2][:1]):
        raise ValueError(f"expected logprobs, old_logprobs and mask [N, T] and advantages [N] or [N, T], got {shapes}")
    if variant not in get_args(PolicyVariant):
        raise ValueError(f"expected a variant among {', '.join(get_args(PolicyVariant))}; got {variant!r}")
    if clip_dual <= 1:
        raise ValueError(f"expected clip_dual above 1, got {clip_dual}; pass inf to switch the dual clip off")
