"""Sampled thoughts in TensorBoard during training: the rollout reward of each one, and its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.tensorboard import (
    PREFERENCES,
    by_name,
    escape,
    order_suffix,
    reward_names,
    tell_without_tensorboard,
    tensorboard_writer,
)
from descore.types import Group, PairBatch


class RolloutTexts(Callback):
    """Writes groups of sampled thoughts to TensorBoard as tables, with one row per thought.

    Tags are `rollouts/<i>`: 0 is video A of the batch's first pair and 1 its video B, 2 is video A of the second pair,
    and so on; of a model that compares two videos, 0 is both with A first, and 1 both with B first. A row has the
    rollout reward, the score of each rule, the advantage, the reward of the head, the number of tokens and the text. On
    several devices, rank 0 shows its part of the batch.

    Args:
        every_n_batches: Number of training batches between two batches that are shown.
        num_groups: Number of groups shown per batch; a group is the thoughts about one video.
    """

    def __init__(self, every_n_batches: int = 20, num_groups: int = 2) -> None:
        self.every_n_batches = every_n_batches
        self.num_groups = num_groups

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say that the sampled thoughts are left out where there is no TensorBoardLogger; a fast_dev_run needs none."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            tell_without_tensorboard(trainer, "sampled thoughts")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        """Write the rollouts of every n-th batch."""
        # Not batch_idx: it restarts in each epoch, which may be shorter than every_n_batches.
        if trainer.fit_loop.total_batch_idx % self.every_n_batches or (writer := tensorboard_writer(trainer)) is None:
            return
        rollouts = outputs["rollouts"]
        for index in range(min(self.num_groups, len(rollouts.groups))):
            text = _describe(rollouts, *divmod(index, 2), reward_names(pl_module), order_suffix(pl_module))
            writer.add_text(f"rollouts/{index}", text, trainer.global_step)


def _describe(rollouts: Any, index: int, side: int, names: Sequence[str], order: str = "") -> str:
    """Format one group as Markdown: the prompt, the video, the label, and one row per thought."""
    pair = rollouts.pairs[index]
    video = side * len(rollouts.pairs) + index
    graded = {"rollout reward": rollouts.rewards, **rollouts.parts, "advantage": rollouts.advantages}
    columns = {escape(label): _numbers(values[video]) for label, values in graded.items()}
    preferred = by_name(names, [PREFERENCES.get(value, "unusable") for value in pair.preference])
    return "\n\n".join([
        f"**Prompt** {escape(pair.prompt)}",
        f"**Video** {'AB'[side]}{order} of {escape(pair.id)}",
        f"**Preferred** {preferred}",
        _table(columns | _said(rollouts.groups[video], names)),
    ])


def _said(group: Group, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of the model's own output by label, with one cell per thought."""
    lengths = [f"{len(thought.token_ids)}" + ("" if thought.closed else " **(cut)**") for thought in group.thoughts]
    return {
        "head's reward": [by_name(names, _numbers(rewards)) for rewards in group.rewards],
        "tokens": lengths,
        "thought": [escape(text) for text in group.texts],
    }


def _numbers(values: Tensor) -> list[str]:
    return ["**failed**" if value != value else f"{value:.3f}" for value in values.tolist()]


def _table(columns: dict[str, list[str]]) -> str:
    """Format columns as a Markdown table.

    >>> print(_table({"x": ["1", "2"], "y": ["3", "4"]}))
    | x | y |
    |---|---|
    | 1 | 3 |
    | 2 | 4 |
    """
    rows = [f"| {' | '.join(cells)} |" for cells in (columns, *zip(*columns.values(), strict=True))]
    return "\n".join([rows[0], "|" + "---|" * len(columns), *rows[1:]])
