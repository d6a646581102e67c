"""Choice between two videos: the probabilities of its outcomes at the place where it stands, or what a thought says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from descore.inputs.choice import OUTCOMES, ChoiceError, ChoiceSettings, TokenisedChoice, tokenise_choice
from descore.inputs.processor import Processor, prefixes_of
from descore.inputs.settings import RewardSource
from descore.model.reward_model import RewardModel
from descore.thinking.readout import Readout
from descore.types import Branches, Thought, VideoFeatures


@torch.no_grad()
def read_choices(
    model: RewardModel,
    pairs: Branches,
    texts: Sequence[Sequence[str]],
    source: RewardSource | None = None,
    *,
    seen: Sequence[VideoFeatures] | None = None,
) -> list[Readout]:
    """Read the choice of every thought about each pair of a batch.

    "choice": let p(o) be the probability that the model writes the words of outcome o at the place of its choice, up to
    the first token that no other outcome has there; the probabilities are p(o) over their sum. Where the outcomes
    differ in one token, that is the softmax of the logits of these tokens alone.

    Args:
        model: Model that compares two videos.
        pairs: Packed batch of V pairs, two videos in each prefix; only its prefixes are read.
        texts: Thoughts about each pair; an empty text reads the choice without a thought.
        source: "choice" or "said_choice"; the one that the model was trained for if not given.
        seen: Output of `model.see` for these videos. If given, the vision tower does not run again.

    Returns:
        One readout per pair with probabilities `[n, 3]` of "the first is better", "tie" and "the second is better"; nan
        and the reason for a thought in which no choice stands.
    """
    settings = model.settings
    if (source or settings.reward_from) == "said_choice":
        return [_read_words(settings.choice, row) for row in texts]
    found = [[_tokenised(model.processor, text) for text in row] for row in texts]
    choices = [[one for one in row if isinstance(one, TokenisedChoice)] for row in found]
    read = iter(probabilities(model, pairs, choices, seen=seen)) if any(choices) else iter(())
    missing = torch.full((len(OUTCOMES),), math.nan)
    rows = [[(missing, one) if isinstance(one, str) else (next(read), None) for one in row] for row in found]
    return [Readout(torch.stack([value for value, _ in row]), tuple(error for _, error in row)) for row in rows]


def probabilities(
    model: RewardModel,
    pairs: Branches,
    choices: Sequence[Sequence[TokenisedChoice]],
    *,
    seen: Sequence[VideoFeatures] | None = None,
) -> Tensor:
    """Compute the probabilities of the outcomes at places, `[N, 3]` float32 on the CPU, ordered by pair.

    Args:
        model: Model that compares two videos.
        pairs: Packed batch of pairs; only its prefixes are read.
        choices: Places of each pair, N of them in all.
        seen: Output of `model.see` for these videos.
    """
    words = model.settings.choice.words
    branches = model.processor.pack(prefixes_of(pairs), [branches_of(row) for row in choices])
    places, owners = told_apart([one for row in choices for one in row])
    hidden = model.hidden(branches, seen=seen)[branches.source_index[places.to(branches.source_index.device)]]
    targets = branches.target_ids[places.to(branches.target_ids.device)]
    logprobs = model.next_logits(hidden).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    known = choice_logprobs(logprobs.cpu(), owners, len(words)).exp()
    columns = [OUTCOMES.index(outcome) for outcome in words]
    return known.new_zeros(len(known), len(OUTCOMES)).index_copy(1, torch.tensor(columns), known)


def branches_of(choices: Sequence[TokenisedChoice]) -> list[Thought]:
    """Return the branches of a pair's places: one for every outcome of each."""
    return [Thought(token_ids) for one in choices for token_ids in one.token_ids]


def told_apart(choices: Sequence[TokenisedChoice]) -> tuple[Tensor, Tensor]:
    """Return which predicted tokens of the branches of places tell their outcomes apart, and whose outcome they are.

    Args:
        choices: N places, whose branches lie one after the other; see `branches_of`.

    Returns:
        Indices `[M]` into the predicted tokens of all branches, and for each the index of its branch.

    >>> told_apart([TokenisedChoice(((5, 6, 1), (5, 6, 2, 3)))])
    (tensor([2, 5, 6]), tensor([0, 1, 1]))
    """
    places: list[int] = []
    owners: list[int] = []
    begun = 0
    rows = [(one.start, token_ids) for one in choices for token_ids in one.token_ids]
    for owner, (start, token_ids) in enumerate(rows):
        places += range(begun + start, begun + len(token_ids))
        owners += [owner] * (len(token_ids) - start)
        begun += len(token_ids)
    return torch.tensor(places), torch.tensor(owners)


def choice_logprobs(logprobs: Tensor, owners: Tensor, num_outcomes: int) -> Tensor:
    """Compute the log-probabilities of the outcomes of N places, given that it is one of them.

    Args:
        logprobs: [M] log-probabilities of the tokens that tell outcomes apart.
        owners: [M] index of the outcome of each token, in 0 to N * num_outcomes - 1; see `told_apart`.
        num_outcomes: Number of outcomes at each place.

    Returns:
        [N, num_outcomes].

    >>> choice_logprobs(torch.tensor([0.1, 0.3, 0.5]).log(), torch.tensor([0, 1, 1]), 2).exp()
    tensor([[0.4000, 0.6000]])
    """
    total = logprobs.new_zeros(int(owners[-1]) + 1).index_add(0, owners.to(logprobs.device), logprobs)
    return total.view(-1, num_outcomes).log_softmax(-1)


def _tokenised(processor: Processor, text: str) -> TokenisedChoice | str:
    """Return the outcomes at the place of a thought's choice, or the reason why there is none."""
    choice = processor.settings.choice
    try:
        context = choice.context(text)
    except ChoiceError as error:
        return str(error)
    return tokenise_choice(processor.clean_thought(context), choice, processor.tokenizer)


def _read_words(choice: ChoiceSettings, texts: Sequence[str]) -> Readout:
    rows: list[list[float]] = []
    errors: list[str | None] = []
    for text in texts:
        try:
            said = choice.said(text)
            rows.append([float(outcome == said) for outcome in OUTCOMES])
            errors.append(None)
        except ChoiceError as error:
            rows.append([math.nan] * len(OUTCOMES))
            errors.append(str(error))
    return Readout(torch.tensor(rows), tuple(errors))
