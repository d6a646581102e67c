"""What the reward of a video is read from: the head, what the thought says, or the answers to a checklist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from descore.answer import AnswerError, locate_overall, parse_answer
from descore.inputs.checklist import ask, weights_of
from descore.inputs.processor import prefixes_of
from descore.inputs.settings import SAID, ModelSettings, RewardSource
from descore.model.reward_model import RewardModel
from descore.types import Branches, Group, Thought, VideoFeatures

_UNFITTED = "the weights of the checklist have not been fitted; expected a model that has been trained to its end"
LEVELS = ("1", "2", "3", "4", "5")


class ReadoutError(ValueError):
    """A reward that a model cannot give."""


@dataclass(frozen=True, slots=True)
class Readout:
    """The rewards of one video, one row per thought.

    Attributes:
        rewards: One row per thought, nan where it has none.
        errors: Why a thought has no reward; None where it has one.
    """

    rewards: Tensor  # [n, K] float32
    errors: tuple[str | None, ...]

    def mean(self) -> Tensor:
        """Mean over the thoughts that have a reward, [K]; nan if none has."""
        return self.rewards.nanmean(0)


def choose_source(settings: ModelSettings, source: RewardSource | None, *, thoughts: bool) -> RewardSource:
    """Return what a model's rewards are read from: what it was trained for, if nothing else is asked for.

    Args:
        settings: Of the model.
        source: What is asked for; thoughts can be read of every model that thinks, a head or a checklist only of a
            model that was trained for it.
        thoughts: Whether the model thinks.

    Raises:
        ReadoutError: If the model cannot give that reward.
    """
    source = source or settings.reward_from
    if source in SAID and not thoughts:
        raise ReadoutError(f"the reward {source!r} is said in a thought: let the model think, or read another reward")
    if source in SAID and len(settings.reward_names) > 1:
        raise ReadoutError(f"a thought says one {source!r}, and this model gives {', '.join(settings.reward_names)}")
    if source not in SAID and source != settings.reward_from:
        raise ReadoutError(f"this model was trained to give {settings.reward_from!r}; it has no {source!r} to read")
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
    """Read the rewards of thoughts.

    Args:
        model: The model that thought.
        videos: A packed batch; only its prefixes are read.
        groups: The thoughts of each video, scored by the head. A checklist reads none of them.
        source: What to read; what the model was trained for, if not given.
        seen: What `model.see` gave for these videos, if the vision tower need not look again.

    Returns:
        One per video.
    """
    source = source or model.settings.reward_from
    if source == "head":
        return [Readout(group.rewards, (None,) * len(group.thoughts)) for group in groups]
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
    """Return the probability-weighted overall score of every thought, or why it has none, video by video.

    Where the thought writes the leading digit of its overall score, the model's logits of the digits 1 to 5 (all other
    tokens left out, temperature 1) give them probabilities p. The score is `sum_d p(d) d` plus the fraction that the
    thought wrote: "4.62" written with p(4) = 0.75 and p(3) = 0.25 is 3.75 + 0.62 = 4.37. So it lies between 1 and 6.
    One forward over the thoughts, and one row of logits each.
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
    """Return the probability of yes against no for every question of the model's checklist.

    Every question is a branch of the video's prefix, whether or not its prompt asks for the dimension.

    Args:
        model: A model with a checklist.
        videos: A packed batch; only its prefixes are read.
        seen: What `model.see` gave for these videos, if the vision tower need not look again.

    Returns:
        `[V, Q]` float32.
    """
    asked = [ask(question, model.processor.tokenizer) for question in model.settings.checklist]
    prefixes = prefixes_of(videos)
    branches = model.processor.pack(prefixes, [[Thought(one.token_ids) for one in asked]] * len(prefixes))
    # The last token of a question stands right before the query tokens of its branch.
    logits = model.next_logits(model.hidden(branches, seen=seen)[branches.query_index[:, 0] - 1])
    answers = torch.tensor([(one.yes, one.no) for one in asked], device=logits.device).repeat(len(prefixes), 1)
    return logits.gather(1, answers).softmax(-1)[:, 0].view(len(prefixes), -1)


def weigh(model: RewardModel, answers: Tensor) -> Tensor:
    """Weigh the answers `[V, Q]` of a checklist: `[V]` float32 rewards, nan while the weights are not fitted."""
    return (answers.double() @ weights_of(model.settings.checklist).to(answers.device)).float()


def _said(text: str) -> float | str:
    """The overall score that a thought says, or why it has none."""
    try:
        overall = parse_answer(text).overall
    except AnswerError as error:
        return f"the thought has no legal answer: {error}"
    return "the answer of the thought has no overall_score" if overall is None else overall


def _locate(model: RewardModel, text: str, thought: Thought) -> int | str:
    """Place of the token that is the leading digit of the overall score, or why there is none."""
    if isinstance(said := _said(text), str):
        return said
    try:
        offset = locate_overall(text)
    except AnswerError as error:
        return str(error)
    decode, ids = model.processor.tokenizer.decode, thought.token_ids
    low, high = 1, len(ids)  # the fewest tokens whose text reaches the digit
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decode(ids[:middle]).startswith(text[: offset + 1]) else (middle + 1, high)
    if ids[low - 1] not in _levels(model):
        return f"the leading digit of the overall score {said} is no token of its own"
    return low - 1


def _levels(model: RewardModel) -> list[int]:
    return list(model.processor.tokenizer.convert_tokens_to_ids(list(LEVELS)))


def _readout(scores: Sequence[float | str], device: torch.device) -> Readout:
    values = [math.nan if isinstance(score, str) else score for score in scores]
    errors = tuple(score if isinstance(score, str) else None for score in scores)
    return Readout(torch.tensor(values, device=device)[:, None], errors)
