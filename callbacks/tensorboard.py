"""TensorBoard: a logger whose first card is the headline, and helpers of the callbacks that write through it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

PREFERENCES = {1.0: "A", -1.0: "B", 0.0: "tie"}

_ENTITIES = str.maketrans({mark: f"&#{ord(mark)};" for mark in "&<>\\`*_{}[]()#!|~"})


class HeadlineFirst(TensorBoardLogger):
    """Logger to TensorBoard, which shows its groups of tags by name: the accuracies come first, as `accuracy/val`.

    `accuracy/val` is a copy of the headline, `val/preference_accuracy`, and `accuracy/val_<table>` one of
    `val/<table>/preference_accuracy`. The number of the epoch, which has a group of its own otherwise, is left out.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, and the accuracies once more in the first group."""
        shown = {tag: value for tag, value in metrics.items() if tag != "epoch"}
        super().log_metrics(first_group(shown) | shown, step)


def first_group(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the accuracies under the names that sort first.

    >>> first_group({"val/preference_accuracy": 0.5, "val/ood/preference_accuracy": 0.4, "train/loss": 1.0})
    {'accuracy/val': 0.5, 'accuracy/val_ood': 0.4}
    """
    found = {tag: re.fullmatch(r"(val(?:/[^/]+)?)/preference_accuracy", tag) for tag in metrics}
    return {f"accuracy/{match[1].replace('/', '_')}": metrics[tag] for tag, match in found.items() if match}


def escape(text: str) -> str:
    """Escape text so that Markdown shows it literally, also inside a table cell; line breaks are kept.

    >>> escape("a *red* ball")
    'a &#42;red&#42; ball'
    """
    return "<br>".join(line.translate(_ENTITIES) for line in text.splitlines())


def tell_without_tensorboard(trainer: Trainer, what: str) -> None:
    """Say that a run leaves something out, if it has no TensorBoardLogger to write it through."""
    if not any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        found = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "no logger"
        rank_zero_info(f"This run has {found}, which cannot show {what}: they are left out; TensorBoard shows them")


def tensorboard_writer(trainer: Trainer) -> Any:
    """Return TensorBoard's writer; None on ranks other than 0, in the sanity check, and without a TensorBoardLogger."""
    if trainer.sanity_checking or not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def reward_names(pl_module: LightningModule) -> Sequence[str]:
    """Return the names of the model's rewards."""
    system: Any = pl_module
    names: Sequence[str] = system.model.settings.reward_names
    return names


def order_suffix(pl_module: LightningModule) -> str:
    """Return what follows "A" and "B" where they name a context of two videos: " first", and nothing for one video."""
    system: Any = pl_module
    return " first" if system.model.settings.is_pairwise else ""


def by_name(names: Sequence[str], values: Sequence[str]) -> str:
    """Join the values of all rewards into one text, each with its name if there are several.

    >>> by_name(["overall"], ["0.5"]), by_name(["VQ", "TA"], ["0.5", "1.0"])
    ('0.5', 'VQ 0.5, TA 1.0')
    """
    if len(names) == 1:
        return values[0]
    return ", ".join(f"{escape(name)} {value}" for name, value in zip(names, values, strict=True))
