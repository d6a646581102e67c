"""The checklist objective: the answers of the questions, and the weights that are fitted to preferences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from descore.losses.pair_losses import mean_over_usable
from descore.objectives.preference import Mean
from descore.types import Thought


def answer_logprobs(logprobs: Tensor, answered: Sequence[Thought]) -> Tensor:
    """Pick the log-probability of the answer, the last token, of every branch out of those of all its tokens.

    Args:
        logprobs: [M] of the predicted tokens of all branches, one after the other.
        answered: The B branches, each a question and its answer, not closed.

    Returns:
        [B].

    >>> answer_logprobs(torch.tensor([-1.0, -2.0, -3.0]), [Thought((7, 8)), Thought((9,))])
    tensor([-2., -3.])
    """
    return logprobs[torch.tensor([len(branch.token_ids) for branch in answered], dtype=torch.int64).cumsum(0) - 1]


def checklist_loss(logprobs: Tensor, answered: Sequence[Thought], mean: Mean = mean_over_usable) -> Tensor:
    """Language-model loss on the answers: every question that is asked of a video has the same weight.

    Args:
        logprobs: [M] log-probabilities of the predicted tokens of all branches, one after the other.
        answered: The B branches, each a question and its answer, not closed.
        mean: Averages over the answers of the batch, of all ranks.

    Returns:
        Scalar.
    """
    answers = answer_logprobs(logprobs, answered)
    return mean(-answers, torch.ones_like(answers).bool())


def fit_weights(differences: Tensor, preference: Tensor, *, ridge: float = 1.0, nonnegative: bool = False) -> Tensor:
    """Fit the weights of the answers: logistic regression, without a constant, of the preference on their differences.

    The minimum of `sum -log sigmoid(preference * (differences . w)) + ridge / 2 * |w|^2`, in float64 by L-BFGS. As in
    VisionReward (arXiv 2412.21059), whose answers are hard and whose weights are not negative.

    Args:
        differences: [N, Q] answers about video A minus those about video B.
        preference: [N] +1 A, -1 B; ties (0) and nan are left out, and so are differences with nan.
        ridge: Keeps weights finite where the answers tell all pairs right.
        nonnegative: Whether questions whose weight is negative get weight 0 and the others are fitted again, until none
            is negative.

    Returns:
        [Q] float64.

    Raises:
        ValueError: If no pair is left.
    """
    differences, preference = differences.detach().double().cpu(), preference.double().cpu()
    used = (preference.nan_to_num() != 0) & ~differences.isnan().any(1)
    if not bool(used.any()):
        raise ValueError(f"expected pairs with a preference to fit the checklist on, got {len(preference)} without one")
    signed = differences[used] * preference[used, None]
    weights = _logistic(signed, ridge)
    while nonnegative and bool((weights < 0).any()):
        kept = weights > 0
        weights = torch.zeros_like(weights)
        if bool(kept.any()):
            weights[kept] = _logistic(signed[:, kept], ridge)
    return weights


def _logistic(signed: Tensor, ridge: float) -> Tensor:
    """Return the weights [Q] at the minimum of `sum -log sigmoid(signed @ w) + ridge / 2 * |w|^2`."""
    weights = torch.zeros(signed.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = ridge / 2 * weights.square().sum() - logsigmoid(signed @ weights).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad(), torch.inference_mode(False):
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()
