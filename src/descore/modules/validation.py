"""The counters of validation: preference accuracy with the teacher's thought, without one, and with the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from descore.metrics.accumulated import PreferenceAccuracy
from descore.model.reward_model import RewardModel
from descore.modules.readings import GivenReader, Reading
from descore.rewards import format_reward, quality_reward
from descore.thinking.looking import think_about_pairs
from descore.thinking.readout import said_scores
from descore.thinking.rollouts import sides_of
from descore.types import Group, PairBatch


class Validated(TypedDict):
    """A validated batch, for callbacks.

    Attributes:
        batch: Batch of N pairs.
        rewards: Rewards `[2, N, K]` of videos A and B by reading, for the readings that this batch has.
        groups: The model's own thoughts, videos A first; empty if it wrote none.
    """

    batch: PairBatch
    rewards: dict[Reading, Tensor]
    groups: list[Group]


class Validation:
    """The counters of one validation run; every value exists on every rank from the start, so that all can be summed.

    Args:
        model: Model that is validated.
        tables: Names of the validation tables.
        own_thought_pairs: Pairs per table and rank for which the model writes its own thoughts.
        headline: Reading that is logged without a suffix to its name.
        given: Reads the rewards, without thoughts of the model's own and with them.
    """

    def __init__(
        self,
        model: RewardModel,
        tables: Sequence[str],
        own_thought_pairs: int,
        headline: Reading,
        given: GivenReader,
    ) -> None:
        self.model = model
        self.own_thought_pairs = own_thought_pairs
        self.given = given
        own = own_thought_pairs > 0
        self.tables = [_Table(model, given.names, own=own, headline=headline) for _ in tables]
        self.tags = ["val" if index == 0 else f"val/{name}" for index, name in enumerate(tables)]

    def step(self, batch: PairBatch, table: int) -> Validated:
        """Count a batch of a table."""
        counts = self.tables[table]
        given = self.given(self.model, batch)
        rewards = dict(given.rewards)
        counts.count_values(given.values)
        groups: list[Group] = []
        if counts.num_own < self.own_thought_pairs:
            groups = think_about_pairs(self.model, batch)
            own = self.given.own(self.model, batch, groups)
            rewards |= own.rewards
            counts.count_values(own.values)
            counts.count_thoughts(self.model, batch, groups)
        counts.count_rewards(rewards, batch.preference)
        return Validated(batch=batch, rewards=rewards, groups=groups)

    def results(self) -> dict[str, float]:
        """Return every value over all ranks, by TensorBoard tag; every rank calls it."""
        values: dict[str, float] = {}
        for tag, table in zip(self.tags, self.tables, strict=True):
            values |= {f"{tag}/{name}": value for name, value in table.results().items()}
        return values


class _Table:
    """The counters of one table."""

    def __init__(self, model: RewardModel, given: Sequence[str], *, own: bool, headline: Reading) -> None:
        self.names = model.settings.reward_names
        self.headline = headline
        self.num_own = 0
        device = model.head.weight.device
        readings: list[Reading] = ["teacher_thought", "no_thought", "own_thought"]
        means = [
            f"{kind}{name}" for name in self._suffixes for kind in ("reward_margin", "reward_mean", "reward_square")
        ]
        means += ["failed_share", *given]
        means += ["dimension_accuracy", "well_formed", "thought_tokens"] if own else []
        self.accuracy = {
            reading: [PreferenceAccuracy().to(device) for _ in self.names] for reading in readings[: 3 if own else 2]
        }
        self.means = {name: MeanMetric().to(device) for name in means}
        # What is never counted is nan, without torchmetrics' warning.
        for mean in self.means.values():
            mean.update(0.0, weight=0.0)
        for accuracies in self.accuracy.values():
            for accuracy in accuracies:
                accuracy.update(torch.empty(0, device=device), torch.empty(0, device=device))

    @property
    def _suffixes(self) -> list[str]:
        """Suffixes that tell the values of several rewards apart."""
        return [f"/{name}" for name in self.names] if len(self.names) > 1 else [""]

    def count_rewards(self, rewards: dict[Reading, Tensor], preference: Tensor) -> None:
        """Count the rewards `[2, N, K]` of a batch, by reading, against the preferences `[N, K]`."""
        for reading, values in rewards.items():
            margin = values[0] - values[1]
            for index, accuracy in enumerate(self.accuracy[reading]):
                accuracy.update(margin[:, index], preference[:, index])
        if (shown := rewards.get(self.headline)) is None:
            return
        self.means["failed_share"].update(shown.isnan().float())
        margin = (shown[0] - shown[1]) * preference
        decided = (preference.nan_to_num() != 0) & ~margin.isnan()
        for index, suffix in enumerate(self._suffixes):
            scored = shown[..., index][~shown[..., index].isnan()]
            self.means[f"reward_margin{suffix}"].update(margin[decided[:, index], index])
            self.means[f"reward_mean{suffix}"].update(scored)
            self.means[f"reward_square{suffix}"].update(scored**2)

    def count_values(self, values: dict[str, Tensor]) -> None:
        """Average values by name."""
        for name, value in values.items():
            self.means[name].update(value)

    def count_thoughts(self, model: RewardModel, batch: PairBatch, groups: list[Group]) -> None:
        """Count how good the model's own thoughts are, one per video or context; not all have dimension scores."""
        self.num_own += len(batch.pairs)
        settings = model.settings
        for group in groups:
            self.means["thought_tokens"].update(len(group.thoughts[0].token_ids))
        if settings.is_pairwise:
            for group in groups:
                self.means["well_formed"].update(float(settings.choice.is_whole(group.texts[0])))
            return
        for side, group in zip(sides_of(batch.pairs), groups, strict=True):
            said = said_scores(model, group)[0] if (fields := settings.answer.fields) else None
            well_formed = not isinstance(said, str) if fields else format_reward(group.texts[0])
            self.means["well_formed"].update(float(well_formed))
            if side.scores is not None and not fields:
                self.means["dimension_accuracy"].update(quality_reward(group.texts[0], side.scores))

    def results(self) -> dict[str, float]:
        """Return every value over all ranks by name; a value that was never counted is nan."""
        means = {name: float(mean.compute()) for name, mean in self.means.items()}
        for suffix in self._suffixes:
            variance = means.pop(f"reward_square{suffix}") - means[f"reward_mean{suffix}"] ** 2
            means[f"reward_std{suffix}"] = max(variance, 0.0) ** 0.5 if variance == variance else variance
        values: dict[str, float] = {}
        for reading, accuracies in self.accuracy.items():
            name = "preference_accuracy" if reading == self.headline else f"preference_accuracy_{reading}"
            shares = [float(accuracy.compute()) for accuracy in accuracies]
            values[name] = float(torch.tensor(shares).nanmean())
            if len(shares) > 1:
                values |= {f"{name}{suffix}": share for suffix, share in zip(self._suffixes, shares, strict=True)}
        return values | means
