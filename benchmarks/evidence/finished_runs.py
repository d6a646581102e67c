"""Read the scalars that a finished run has logged in its folder (runs/NAME/version_0)."""

from __future__ import annotations

import logging
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every step that was logged again after a resume


def logged_points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read step and value of every scalar, by tag, as TensorBoard shows them."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})  # 0 is all of them
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
