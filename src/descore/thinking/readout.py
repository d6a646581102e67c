"""Readout of a video's reward: from the head, from the answer of the thought, or from a checklist."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from descore.answer import AnswerError
from descore.inputs.answers import locate_digits, said_values
from descore.inputs.checklist import ProbeSettings, Question, tokenise_question
from descore.inputs.processor import prefixes_of
from descore.inputs.settings import FROM_THOUGHT, PAIRWISE, WITH_TOOL, ModelSettings, RewardSource
from descore.model.reward_model import RewardModel
from descore.types import Branches, Group, ModelError, Thought, VideoFeatures

T = TypeVar("T")

_UNFITTED = "the weights of the checklist are not fitted; train the model to the end and score with that export"


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
        source: Requested source; the one that the model was trained for if not given. Those of `FROM_THOUGHT` can be
            read from every model that thinks, "head" and "checklist" only from a model that was trained for them.
        thoughts: Whether the model thinks before it scores.

    Raises:
        ReadoutError: If the model cannot give that reward.
    """
    source = source or settings.reward_from
    if settings.is_pairwise != (source in PAIRWISE):
        kind, own = ("compares two videos", PAIRWISE) if settings.is_pairwise else ("scores one video", FROM_THOUGHT)
        expected = dict.fromkeys([settings.reward_from, *own])
        raise ReadoutError(f"this model {kind}; it has no {source!r}. Expected {' or '.join(expected)}")
    if source in (*FROM_THOUGHT, "said_choice") and not thoughts:
        raise ReadoutError(
            f"the reward {source!r} is read from a thought: let the model think, or choose another reward"
        )
    if settings.tool is not None and source not in WITH_TOOL:
        raise ReadoutError(f"this model asks for frames; it has no {source!r}. Expected {' or '.join(WITH_TOOL)}")
    if source in FROM_THOUGHT:
        try:
            settings.check_answer(source)
        except ValueError as error:
            raise ReadoutError(f"{error}; or read {settings.reward_from!r}") from error
    if source not in (*FROM_THOUGHT, *PAIRWISE) and source != settings.reward_from:
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
    found = iter(
        [said for group in groups for said in said_scores(model, group)]
        if source == "overall_score"
        else digit_scores(model, videos, groups, source, seen=seen)
    )
    return [_readout(model.settings, [next(found) for _ in group.thoughts], group.rewards.device) for group in groups]


def said_scores(model: RewardModel, group: Group) -> list[list[float] | str]:
    """Return what the answer of each thought of a video says: the value of each field, or why it has none."""
    pairs = zip(group.texts, group.thoughts, strict=True)
    return [_or_reason(said_values, text, model.settings.answer, whole=thought.closed) for text, thought in pairs]


def digit_scores(
    model: RewardModel,
    videos: Branches,
    groups: Sequence[Group],
    source: RewardSource,
    *,
    seen: Sequence[VideoFeatures] | None = None,
) -> list[list[float] | str]:
    """Compute what the answer of every thought might have said, by the model's own probabilities of the digits.

    Let p(d) be the softmax of the model's logits over the digits that are legal, and over these alone, at the
    temperature of `AnswerSettings`, at the position where the thought writes the leading digit of a field. With
    "expected_score" the value of the field is `sum_d p(d) d` plus the fraction that the thought wrote: "4.62" with
    p(4) = 0.75 and p(3) = 0.25 gives 3.75 + 0.62 = 4.37. With "top_share" it is `d p(d)` of the likeliest digit, as in
    VideoScore2 (arXiv 2509.22799): 4 with p(4) = 0.75 gives 3, and so does a sure 3. The cost is one forward over all
    thoughts, and one row of logits for each field of a thought.

    Args:
        model: Model that sampled the thoughts.
        videos: Packed batch of videos; only its prefixes are read.
        groups: Thoughts of each video.
        source: "expected_score" or "top_share".
        seen: Output of `model.see` for these videos. If given, the vision tower does not run again.

    Returns:
        The value of each field of each thought, or the reason why it has none; all thoughts of the first video first.
    """
    texts = [text for group in groups for text in group.texts]
    thoughts = [thought for group in groups for thought in group.thoughts]
    found = [_locate(model, *one) for one in zip(texts, thoughts, strict=True)]
    rows = [row for row, places in enumerate(found) if not isinstance(places, str)]
    if not rows:
        return [str(reason) for reason in found]
    branches = model.processor.pack(prefixes_of(videos), [group.thoughts for group in groups])
    starts = [0, *accumulate(len(thought.token_ids) + thought.closed for thought in thoughts)]
    places = [starts[row] + place for row in rows for place in found[row] if isinstance(place, int)]
    logits = model.next_logits(model.hidden(branches, seen=seen)[branches.source_index[places]])
    scores = iter(_of_digits(model, logits, source).tolist())
    read: dict[int, list[float] | str] = {}
    for row in rows:
        values = [next(scores) for _ in found[row]]
        if source == "expected_score":
            said = said_values(texts[row], model.settings.answer)
            values = [value + math.modf(one)[0] for value, one in zip(values, said, strict=True)]
        read[row] = values
    return [read.get(row, str(places)) for row, places in enumerate(found)]


def _of_digits(model: RewardModel, logits: Tensor, source: RewardSource) -> Tensor:
    """Return the expectation over the digits, or the likeliest digit times its probability, `[M]`, of `[M, V]`."""
    answer = model.settings.answer
    chances = (logits[:, _digit_ids(model)] / answer.temperature).softmax(-1)
    digits = torch.tensor(answer.digits, dtype=chances.dtype, device=logits.device)
    if source == "expected_score":
        return chances @ digits
    top, place = chances.max(-1)
    return digits[place] * top


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
    """Compute the rewards of a checklist: the sum or mean of weight times answer over its questions.

    Args:
        model: Model with a checklist of Q questions and their weights.
        answers: Probabilities of yes, `[V, Q]`.

    Returns:
        Rewards, `[V]` float32; nan if the weights are not fitted yet.
    """
    probes, weights = model.settings.probes, weights_of(model.settings.checklist).to(answers.device)
    total = count_answers(answers, probes).double() @ weights
    return (total / len(weights) if probes.combine == "mean" else total).float()


def count_answers(answers: Tensor, probes: ProbeSettings) -> Tensor:
    """Return what probabilities of yes count: themselves, or +1 above one half and -1 otherwise.

    >>> count_answers(torch.tensor([0.9, 0.5]), ProbeSettings(answers="hard"))
    tensor([ 1., -1.])
    """
    return answers if probes.answers == "soft" else (answers > 0.5).to(answers.dtype) * 2 - 1


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


def _locate(model: RewardModel, text: str, thought: Thought) -> list[int] | str:
    """Return the index of the token of each leading digit that the answer says, or why there is none."""
    found = _or_reason(said_values, text, model.settings.answer, whole=thought.closed)
    offsets = found if isinstance(found, str) else _or_reason(locate_digits, text, model.settings.answer)
    if isinstance(offsets, str):
        return offsets
    places = [_token_at(model, text, thought.token_ids, int(offset)) for offset in offsets]
    for offset, place in zip(offsets, places, strict=True):
        if thought.token_ids[place] not in _digit_ids(model):
            return f"the digit at character {offset} of the thought, {text[int(offset)]!r}, is not a token of its own"
    return places


def _token_at(model: RewardModel, text: str, ids: Sequence[int], offset: int) -> int:
    """Return the index of the token that ends the fewest tokens whose text reaches a character."""
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        reaches = model.processor.thought_text(ids[:middle]).startswith(text[: offset + 1])
        low, high = (low, middle) if reaches else (middle + 1, high)
    return low - 1


def _digit_ids(model: RewardModel) -> list[int]:
    return list(model.processor.tokenizer.convert_tokens_to_ids([str(digit) for digit in model.settings.answer.digits]))


def _or_reason(read: Callable[..., list[T]], *args: Any, **options: Any) -> list[T] | str:
    """Return what is read of an answer, or the reason why nothing is."""
    try:
        return read(*args, **options)
    except AnswerError as error:
        return str(error)


def _readout(settings: ModelSettings, found: Sequence[list[float] | str], device: torch.device) -> Readout:
    count = len(settings.reward_names)
    none = [math.nan] * count
    rewards = [none if isinstance(one, str) else settings.answer.combined(one, count) for one in found]
    return Readout(torch.tensor(rewards, device=device), tuple(one if isinstance(one, str) else None for one in found))
