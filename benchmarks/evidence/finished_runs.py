"""What a finished run has left in its folder (runs/NAME/version_0): what it logged, and the weights it exported."""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every step that a run took again


def logged_points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read step and value of every scalar, by tag, as TensorBoard shows them."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})  # 0 is all of them
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged_values(run: Path) -> dict[str, list[float]]:
    """Read the values of every scalar, by tag."""
    return {tag: [value for _, value in points] for tag, points in logged_points(run).items()}


def exported_weights(export: Path) -> dict[str, Tensor]:
    """Read the backbone and the reward of a merged export."""
    return load_file(export / "backbone/model.safetensors") | load_file(export / "reward.safetensors")
