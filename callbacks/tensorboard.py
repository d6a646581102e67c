"""Helpers of the callbacks that write to TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

PREFERENCES = {1.0: "A", -1.0: "B", 0.0: "tie"}

_ENTITIES = str.maketrans({mark: f"&#{ord(mark)};" for mark in "&<>\\`*_{}[]()#!|~"})


def escape(text: str) -> str:
    """Escape text so that Markdown shows it literally, also inside a table cell; line breaks are kept.

    >>> escape("a *red* ball")
    'a &#42;red&#42; ball'
    """
    return "<br>".join(line.translate(_ENTITIES) for line in text.splitlines())


def require_tensorboard(callback: Callback, trainer: Trainer) -> None:
    """Check that a run has the TensorBoardLogger that a callback writes through; a fast_dev_run needs none.

    Raises:
        ValueError: If the run has none.
    """
    dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
    if not (dry or any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)):
        found = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "none"
        name = f"{type(callback).__module__}.{type(callback).__qualname__}"
        raise ValueError(
            f"{type(callback).__name__} writes through a TensorBoardLogger, got {found}: set trainer.logger to one, or "
            f"remove {name} from trainer.callbacks"
        )


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


def by_name(names: Sequence[str], values: Sequence[str]) -> str:
    """Join the values of all rewards into one text, each with its name if there are several.

    >>> by_name(["overall"], ["0.5"]), by_name(["VQ", "TA"], ["0.5", "1.0"])
    ('0.5', 'VQ 0.5, TA 1.0')
    """
    if len(names) == 1:
        return values[0]
    return ", ".join(f"{escape(name)} {value}" for name, value in zip(names, values, strict=True))
