"""The choice objective: cross-entropy of the outcome that people chose, for both orders of the videos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from descore.inputs.choice import OUTCOMES, TokenisedChoice
from descore.losses.pair_losses import mean_over_usable
from descore.objectives.preference import Mean
from descore.pairwise.reading import choice_logprobs, told_apart


def choice_loss(
    logprobs: Tensor,
    choices: Sequence[TokenisedChoice],
    preference: Tensor,
    mean: Mean = mean_over_usable,
) -> Tensor:
    """Cross-entropy of the outcomes: `-log p(o)`, where p is what the reading "choice" gives.

    A pair counts twice, once in each order. A pair without a usable label has no loss, and neither has a tie if the
    model knows none. For two outcomes this is the Bradley-Terry loss of the difference of their log-probabilities.

    Args:
        logprobs: [M] log-probabilities of the predicted tokens of all branches, one after the other.
        choices: Places of 2N prompts: N with A first, then the same N with B first. All have the outcomes "the first",
            "tie" and "the second", or all of them none but the first and the last of these.
        preference: [N] +1 for A, -1 for B, 0 for a tie, nan for no usable label.
        mean: Averages over the prompts of the batch, of all ranks.

    Returns:
        Scalar.

    A first has 0.8 for the first video, B first 0.5: the mean of -log 0.8 and -log 0.5.

    >>> found = [TokenisedChoice(((1,), (2,)))] * 2
    >>> logprobs = torch.tensor([0.8, 0.2, 0.5, 0.5]).log()
    >>> round(float(choice_loss(logprobs, found, torch.tensor([1.0]))), 4)
    0.4581
    """
    places, owners = told_apart(choices)
    values = (1, 0, -1) if len(choices[0].token_ids) == len(OUTCOMES) else (1, -1)
    table = choice_logprobs(logprobs[places.to(logprobs.device)], owners, len(values))
    labels = torch.cat([preference, -preference])
    chosen = torch.stack([labels == value for value in values], 1)
    return mean(-(table * chosen).sum(1), chosen.any(1))
