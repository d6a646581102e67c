"""What validation counts: preference accuracy with the teacher's thought, without one, and with the model's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from descore.answer import AnswerError, parse_answer
from descore.metrics import PreferenceAccuracy
from descore.model import RewardModel
from descore.think import think
from descore.types import Group, PairBatch


class Validation:
    """Counts over one validation run.

    Args:
        model: The model that is judged.
        tables: Names of the validation tables.
        own_thought_pairs: Pairs of each table for which the model thinks by itself.
    """

    def __init__(self, model: RewardModel, tables: Sequence[str], own_thought_pairs: int) -> None:
        self.model = model
        self.tables = tables
        self.own_thought_pairs = own_thought_pairs
        self._accuracy: dict[str, PreferenceAccuracy] = defaultdict(PreferenceAccuracy)
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._num_thought: dict[int, int] = defaultdict(int)

    def step(self, batch: PairBatch, table: int) -> dict[str, Any]:
        """Count a batch of a table whose videos have two branches, with thought and without.

        Returns:
            The rewards by mode, each `[2, N, K]`, and the groups of own thoughts, to be looked at.
        """
        num_pairs = len(batch.pairs)
        rewards = self.model(batch.branches).rewards.view(2, num_pairs, 2, -1)
        shown = {"": rewards[:, :, 0], "_no_thought": rewards[:, :, 1]}
        groups: list[Group] = []
        if self._num_thought[table] < self.own_thought_pairs:
            self._num_thought[table] += num_pairs
            groups = think(self.model, batch.branches)
            shown["_own_thought"] = torch.stack([group.rewards[0] for group in groups]).view(2, num_pairs, -1)
            self._count_thoughts(batch, groups, self._prefix(table))
        for mode, values in shown.items():
            self._count(self._prefix(table), mode, values, batch.preference)
        return {"rewards": shown, "groups": groups, "batch": batch}

    def results(self) -> dict[str, Tensor | float]:
        """Return every value by its TensorBoard tag."""
        accuracies = {name: metric.compute() for name, metric in self._accuracy.items()}
        return accuracies | {name: torch.cat(values).float().mean() for name, values in self._values.items()}

    def _count(self, prefix: str, mode: str, rewards: Tensor, preference: Tensor) -> None:
        margin = rewards[0] - rewards[1]
        names = self.model.settings.reward_names
        for index, name in enumerate(names):
            suffix = f"/{name}" if len(names) > 1 else ""
            self._accuracy[f"{prefix}/preference_accuracy{mode}{suffix}"].update(margin[:, index], preference[:, index])
        if not mode:
            self._values[f"{prefix}/reward_margin"].append((margin * preference).nan_to_num().flatten())
            self._values[f"{prefix}/reward_mean"].append(rewards.flatten())
            self._values[f"{prefix}/reward_std"].append(rewards.std().view(1))

    def _count_thoughts(self, batch: PairBatch, groups: list[Group], prefix: str) -> None:
        sides = [pair.a for pair in batch.pairs] + [pair.b for pair in batch.pairs]
        for side, group in zip(sides, groups, strict=True):
            right = list(_compare(group.texts[0], side.scores))
            self._values[f"{prefix}/well_formed"].append(torch.tensor([float(bool(right))]))
            self._values[f"{prefix}/thought_tokens"].append(torch.tensor([float(len(group.thoughts[0].token_ids))]))
            if side.scores is not None:
                self._values[f"{prefix}/dimension_accuracy"].append(torch.tensor(right or [0.0] * len(side.scores)))

    def _prefix(self, table: int) -> str:
        """`val` for the first table, `val/<name>` for the others."""
        return "val" if table == 0 else f"val/{self.tables[table]}"


def _compare(thought: str, truth: Any) -> Iterator[float]:
    try:
        scores = parse_answer(thought).scores
    except AnswerError:
        return
    for name, score in scores.items():
        yield float(truth is not None and score == truth[name])
