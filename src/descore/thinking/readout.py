"""Readout of a video's reward: from the head, from the score that the thought states, or from a checklist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from descore.answer import AnswerError, locate_overall, parse_answer
from descore.inputs.checklist import Question, tokenise_question
from descore.inputs.processor import prefixes_of
from descore.inputs.settings import FROM_THOUGHT, ModelSettings, RewardSource
from descore.model.reward_model import RewardModel
from descore.types import Branches, Group, ModelError, Thought, VideoFeatures

_UNFITTED = "the weights of the checklist are not fitted; train the model to the end and score with that export"
LEVELS = ("1", "2", "3", "4", "5")
"""Leading digits that an overall score can have."""


class ReadoutError(ModelError):
    """A reward source that a model does not have; the message says why, and what it can give instead."""


@dataclass(frozen=True, slots=True)
class Readout:
    """The rewards of one video, one row per thought.

    Attributes:
        rewards: Rewards of each of the n thoughts; nan where a thought has none.
        errors: Reason why a thought has no reward; None where it has one.

    >>> Readout(torch.tensor([[1.0], [torch.nan], [2.0]]), (None, "cut off", None)).mean()
    tensor([1.5000])
    """

    rewards: Tensor  # [n, K] float32
    errors: tuple[str | None, ...]

    def mean(self) -> Tensor:
        """Return the mean over the thoughts that have a reward, `[K]`; nan if none has."""
        return self.rewards.nanmean(0)


def choose_source(settings: ModelSettings, source: RewardSource | None, *, thoughts: bool) -> RewardSource:
    """Return the source that a model's rewards are read from, and check that the model has it.

    Args:
        settings: Settings of the model.
        source: Requested source; the one that the model was trained for if not given. "overall_score" and
            "expected_score" can be read from every model that thinks, "head" and "checklist" only from a model that
            was trained for them.
        thoughts: Whether the model thinks before it scores.

    Raises:
        ReadoutError: If the model cannot give that reward.
    """
    source = source or settings.reward_from
    if source in FROM_THOUGHT and not thoughts:
        raise ReadoutError(
            f"the reward {source!r} is read from a thought: let the model think, or choose another reward"
        )
    if source in FROM_THOUGHT and len(settings.reward_names) > 1:
        raise ReadoutError(
            f"a thought states one {source!r}, but this model gives the rewards {', '.join(settings.reward_names)}; "
            f"read {settings.reward_from!r} instead"
        )
    if source not in FROM_THOUGHT and source != settings.reward_from:
        raise ReadoutError(
            f"this model was trained to give {settings.reward_from!r}; it has no {source!r}. Expected "
            f"{settings.reward_from!r}, or one of {', '.join(FROM_THOUGHT)} from a model that thinks"
        )
    return source


@torch.no_grad()
def read_rewards(
    model: RewardModel,
    videos: Branches,
    groups: Sequence[Group],
    source: RewardSource | None = None,
    *,
    seen: Sequence[VideoFeatures] | None = None,
) -> list[Readout]:
    """Read the rewards of the thoughts about each video of a batch.

    Args:
        model: Model that sampled the thoughts.
        videos: Packed batch of V videos; only its prefixes are read.
        groups: Thoughts of each video, with the head's rewards. A checklist does not read them.
        source: Source of the reward, checked by `choose_source`; the one that the model was trained for if not given.
        seen: Output of `model.see` for these videos. If given, the vision tower does not run again.

    Returns:
        One readout per video. A checklist gives one reward per video, whatever the number of thoughts.
    """
    source = source or model.settings.reward_from
    if source == "head":
        return [_from_head(group.rewards) for group in groups]
    if source == "checklist":
        rewards = weigh(model, read_answers(model, videos, seen=seen))
        return [Readout(reward.view(1, 1), (_UNFITTED if bool(reward.isnan()) else None,)) for reward in rewards]
    if source == "overall_score":
        return [_readout([_said(text) for text in group.texts], group.rewards.device) for group in groups]
    expected = iter(expected_scores(model, videos, groups, seen=seen))
    return [_readout([next(expected) for _ in group.thoughts], group.rewards.device) for group in groups]


def expected_scores(
    model: RewardModel, videos: Branches, groups: Sequence[Group], *, seen: Sequence[VideoFeatures] | None = None
) -> list[float | str]:
    """Compute the expected overall score of every thought under the model's own digit probabilities.

    Let p(d) be the softmax of the model's logits over the digits 1 to 5 alone, at temperature 1, at the position where
    the thought writes the leading digit of its overall score. The expected score is `sum_d p(d) d` plus the fraction
    that the thought wrote: "4.62" with p(4) = 0.75 and p(3) = 0.25 gives 3.75 + 0.62 = 4.37. It lies between 1 and 6.
    The cost is one forward over all thoughts, and one row of logits per thought.

    Args:
        model: Model that sampled the thoughts.
        videos: Packed batch of videos; only its prefixes are read.
        groups: Thoughts of each video.
        seen: Output of `model.see` for these videos. If given, the vision tower does not run again.

    Returns:
        The score of each thought, or the reason why it has none; all thoughts of the first video come first.
    """
    texts = [text for group in groups for text in group.texts]
    thoughts = [thought for group in groups for thought in group.thoughts]
    found = [_locate(model, *one) for one in zip(texts, thoughts, strict=True)]
    rows = [row for row, place in enumerate(found) if isinstance(place, int)]
    if not rows:
        return [str(place) for place in found]
    branches = model.processor.pack(prefixes_of(videos), [group.thoughts for group in groups])
    starts = [0, *accumulate(len(thought.token_ids) + thought.closed for thought in thoughts)]
    sources = branches.source_index[[starts[row] + int(found[row]) for row in rows]]
    logits = model.next_logits(model.hidden(branches, seen=seen)[sources])
    levels = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], device=logits.device)
    means = (logits[:, _levels(model)].softmax(-1) @ levels).tolist()
    fractions = [math.modf(parse_answer(texts[row]).overall or 0.0)[0] for row in rows]
    scores = dict(zip(rows, (mean + part for mean, part in zip(means, fractions, strict=True)), strict=True))
    return [scores[row] if row in scores else str(place) for row, place in enumerate(found)]


@torch.no_grad()
def read_answers(model: RewardModel, videos: Branches, *, seen: Sequence[VideoFeatures] | None = None) -> Tensor:
    """Compute the probability of yes, against no alone, for each question of the model's checklist.

    Every question is a branch of the video's prefix, whether or not the prompt asks for its dimension.

    Args:
        model: Model with a checklist of Q questions.
        videos: Packed batch of V videos; only its prefixes are read.
        seen: Output of `model.see` for these videos. If given, the vision tower does not run again.

    Returns:
        Probabilities of yes, `[V, Q]` float32.
    """
    asked = [tokenise_question(question, model.processor.tokenizer) for question in model.settings.checklist]
    prefixes = prefixes_of(videos)
    # The state after the last token of a question that is closed predicts what comes next: the answer.
    branches = model.processor.pack(prefixes, [[Thought(one.token_ids, closed=True) for one in asked]] * len(prefixes))
    ends = torch.tensor([len(one.token_ids) + 1 for one in asked] * len(prefixes)).cumsum(0) - 1
    logits = model.next_logits(model.hidden(branches, seen=seen)[branches.source_index[ends]])
    answers = torch.tensor([(one.yes, one.no) for one in asked], device=logits.device).repeat(len(prefixes), 1)
    return logits.gather(1, answers).softmax(-1)[:, 0].view(len(prefixes), -1)


def weigh(model: RewardModel, answers: Tensor) -> Tensor:
    """Compute the rewards of a checklist, the weighted sum of its answers.

    Args:
        model: Model with a checklist of Q questions and their weights.
        answers: Probabilities of yes, `[V, Q]`.

    Returns:
        Rewards, `[V]` float32; nan if the weights are not fitted yet.
    """
    return (answers.double() @ weights_of(model.settings.checklist).to(answers.device)).float()


def weights_of(questions: Sequence[Question]) -> Tensor:
    """Return the weights of the questions, `[Q]` float64; nan where they are not fitted."""
    weights = [float("nan") if question.weight is None else question.weight for question in questions]
    return torch.tensor(weights, dtype=torch.float64)


def _from_head(rewards: Tensor) -> Readout:
    """Return the head's rewards `[n, K]`; a thought with a reward that is not finite has none."""
    finite = rewards.isfinite().all(-1)
    found = zip(rewards.tolist(), finite.tolist(), strict=True)
    reason = "the head gives the reward {}, which is not a finite number"
    errors = tuple(None if fine else reason.format(", ".join(f"{value:g}" for value in row)) for row, fine in found)
    return Readout(rewards.masked_fill(~finite[:, None], math.nan), errors)


def _said(text: str) -> float | str:
    """Return the overall score that a thought states, or the reason why it has none."""
    try:
        overall = parse_answer(text).overall
    except AnswerError as error:
        return f"the thought has no valid answer: {error}"
    return "the answer of the thought has no overall_score" if overall is None else overall


def _locate(model: RewardModel, text: str, thought: Thought) -> int | str:
    """Return the index of the token that is the leading digit of the overall score, or why there is none."""
    if isinstance(said := _said(text), str):
        return said
    try:
        offset = locate_overall(text)
    except AnswerError as error:
        return str(error)
    decode, ids = model.processor.thought_text, thought.token_ids
    low, high = 1, len(ids)  # the fewest tokens whose text reaches the digit
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decode(ids[:middle]).startswith(text[: offset + 1]) else (middle + 1, high)
    if ids[low - 1] not in _levels(model):
        return f"the leading digit of the overall score {said} is not a token of its own"
    return low - 1


def _levels(model: RewardModel) -> list[int]:
    return list(model.processor.tokenizer.convert_tokens_to_ids(list(LEVELS)))


def _readout(scores: Sequence[float | str], device: torch.device) -> Readout:
    values = [math.nan if isinstance(score, str) else score for score in scores]
    errors = tuple(score if isinstance(score, str) else None for score in scores)
    return Readout(torch.tensor(values, device=device)[:, None], errors)
