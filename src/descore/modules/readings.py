"""The readings of a validation pair: with which thought its videos are scored, and what reads each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from descore.inputs.choice import outcome_of
from descore.inputs.settings import RewardSource
from descore.model.reward_model import RewardModel
from descore.pairwise.comparison import Order, compare_orders
from descore.pairwise.reading import read_choices
from descore.thinking.readout import read_answers, read_rewards, weigh
from descore.thinking.rollouts import sides_of
from descore.types import Group, PairBatch

Reading = Literal["teacher_thought", "no_thought", "own_thought"]
"""With which thought a video is scored."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a batch of pairs gives.

    Attributes:
        rewards: Rewards `[2, N, K]` of videos A and B, by reading.
        values: Values to be averaged, by the names of `GivenReader.names`.
    """

    rewards: dict[Reading, Tensor]
    values: dict[str, Tensor] = field(default_factory=dict)


class GivenReader(ABC):
    """Reads the rewards of validation: those that need no thought of the model's own, and those of its thoughts.

    Attributes:
        names: Names of the values that it counts besides.
    """

    names: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, model: RewardModel, batch: PairBatch) -> Given:
        """Read a batch of pairs without thoughts of the model's own."""

    def own(self, model: RewardModel, batch: PairBatch, groups: Sequence[Group]) -> Given:
        """Read a batch of pairs with the model's own thoughts: one about each of the 2N videos or contexts."""
        rewards = [readout.rewards[0] for readout in read_rewards(model, batch.branches, groups)]
        return Given({"own_thought": torch.stack(rewards).view(2, len(batch.pairs), -1)})


class NoReader(GivenReader):
    """Reads nothing: only the model's own thoughts give a reward."""

    def __call__(self, model: RewardModel, batch: PairBatch) -> Given:
        """Return no reading."""
        return Given({})


class HeadReader(GivenReader):
    """Reads the head with the teacher's thought and without a thought: the branches of every video.

    Args:
        needs_thoughts: Whether the reading with the teacher's thought is left out where a pair of the batch has none.
        readings: Reading of each branch of a video.
    """

    def __init__(
        self, *, needs_thoughts: bool, readings: tuple[Reading, ...] = ("teacher_thought", "no_thought")
    ) -> None:
        self.needs_thoughts, self.readings = needs_thoughts, readings

    def __call__(self, model: RewardModel, batch: PairBatch) -> Given:
        """Read a batch of pairs."""
        found = model(batch.branches).rewards.view(2, len(batch.pairs), len(self.readings), -1).unbind(2)
        rewards = dict(zip(self.readings, found, strict=True))
        if self.needs_thoughts and not all(pair.a.thought and pair.b.thought for pair in batch.pairs):
            del rewards["teacher_thought"]
        return Given(rewards)


class ChoiceReader(GivenReader):
    """Reads the choice between two videos in both orders: as rewards, half of the margin of each.

    It counts how often the verdict is the label, ties included, and how far it depends on the order.

    Args:
        thoughts: Whether that is counted of what the model's own thoughts say, and not of the choice without a thought.
    """

    names = ("verdict_accuracy", "order_disagreement", "verdict_changes")

    def __init__(self, *, thoughts: bool = False) -> None:
        self.thoughts = thoughts

    def __call__(self, model: RewardModel, batch: PairBatch) -> Given:
        """Read a batch of N pairs, which has N prefixes with A first, and then N with B first."""
        rewards, values = self._read(model, batch, [("",)] * 2 * len(batch.pairs), "choice")
        return Given({"no_thought": rewards}, {} if self.thoughts else values)

    def own(self, model: RewardModel, batch: PairBatch, groups: Sequence[Group]) -> Given:
        """Read the choice of the model's own thoughts."""
        rewards, values = self._read(model, batch, [group.texts for group in groups], model.settings.reward_from)
        return Given({"own_thought": rewards}, values)

    def _read(
        self, model: RewardModel, batch: PairBatch, texts: Sequence[Sequence[str]], source: RewardSource
    ) -> tuple[Tensor, dict[str, Tensor]]:
        num_pairs = len(batch.pairs)
        probabilities = [readout.mean() for readout in read_choices(model, batch.branches, texts, source)]
        orders = zip(probabilities[:num_pairs], probabilities[num_pairs:], strict=True)
        found = [compare_orders(Order(*a.tolist()), Order(*b.flip(0).tolist())) for a, b in orders]
        margins = torch.tensor([one.margin for one in found], device=batch.preference.device)
        labels = [outcome_of(label) for label in batch.preference[:, 0].tolist()]
        right = [float(one.verdict == label) for one, label in zip(found, labels, strict=True) if label is not None]
        known = [one for one in found if one.error is None]
        values = {
            "verdict_accuracy": right,
            "order_disagreement": [one.order_disagreement or 0.0 for one in known],
            "verdict_changes": [float(bool(one.verdict_changes)) for one in known],
        }
        rewards = torch.stack([margins / 2, -margins / 2])[..., None]
        return rewards, {name: torch.tensor(value) for name, value in values.items()}


class ChecklistReader(GivenReader):
    """Reads the weighted answers of the checklist, and counts how many of them are right."""

    names = ("answer_accuracy",)

    def __call__(self, model: RewardModel, batch: PairBatch) -> Given:
        """Read a batch of pairs; an answer counts where the annotated scores tell the right one."""
        answers, checklist = read_answers(model, batch.branches), model.settings.checklist
        right = [
            float(answer == truth)
            for side, row in zip(sides_of(batch.pairs), (answers > 0.5).tolist(), strict=True)
            for question, answer in zip(checklist, row, strict=True)
            if side.scores is not None and (truth := question.right_answer(side.scores)) is not None
        ]
        rewards = weigh(model, answers).view(2, len(batch.pairs), 1)
        return Given({"no_thought": rewards}, {"answer_accuracy": torch.tensor(right)})
