"""Read what a finished run has left in its folder (runs/NAME/version_0): logged scalars and exported weights."""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every step that was logged again after a resume


def logged_points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read step and value of every scalar, by tag, as TensorBoard shows them."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})  # 0 is all of them
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged_values(run: Path) -> dict[str, list[float]]:
    """Read the values of every scalar, by tag."""
    return {tag: [value for _, value in points] for tag, points in logged_points(run).items()}


def exported_weights(export: Path) -> dict[str, Tensor]:
    """Read the weights of the backbone and of the reward from a merged export."""
    return load_file(export / "backbone/model.safetensors") | load_file(export / "reward.safetensors")
