"""A training step that was not finite, kept in a folder: its pairs, its thoughts and the options of its losses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from descore.thinking.rollouts import Rollouts
from descore.types import Pair, Thought

MODEL = "model"


@dataclass(frozen=True, slots=True)
class KeptVideo:
    """The thoughts that a step had about one video; the numbers are those of stage 2, and empty in stage 1."""

    thoughts: tuple[Thought, ...]
    advantages: tuple[float, ...] = ()
    old_logprobs: tuple[tuple[float, ...], ...] = ()
    reference_logprobs: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class KeptStep:
    """A step that was not finite, as one process saw it.

    Attributes:
        stage: Whose losses it had.
        step: Optimizer steps before it.
        precision: Lightning's name for it.
        loss: The options of the losses, and their weights.
        pairs: Its pairs.
        videos: What it thought about each, A and B of every pair.
    """

    stage: Literal["cold_start", "checklist", "rl"]
    step: int
    precision: str
    loss: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    videos: tuple[tuple[KeptVideo, KeptVideo], ...]

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, file: Path) -> KeptStep:
        """Read what `write` has written."""
        values = json.loads(file.read_text())
        values["pairs"] = tuple(map(Pair.from_dict, values["pairs"]))
        values["videos"] = tuple((_video(a), _video(b)) for a, b in values["videos"])
        return cls(**values)


def keep_video(rollouts: Rollouts, video: int, reference_logprobs: Tensor | None) -> KeptVideo:
    """Keep what was thought about one video, and what the losses read of it.

    Args:
        rollouts: The rollout batch.
        video: Place of the video.
        reference_logprobs: `[V, n, T]`; None where the step had none.
    """
    group = rollouts.groups[video]
    lengths = [len(row) for row in group.logprobs]
    advantages = rollouts.advantages[video].masked_fill(~rollouts.mask[video].any(1), torch.nan)
    reference = [] if reference_logprobs is None else reference_logprobs[video].tolist()
    return KeptVideo(
        group.thoughts,
        tuple(advantages.tolist()),
        tuple(tuple(row.tolist()) for row in group.logprobs),
        tuple(tuple(row[:length]) for row, length in zip(reference, lengths, strict=bool(reference))),
    )


def _video(values: dict[str, Any]) -> KeptVideo:
    thoughts = tuple(Thought(tuple(one["token_ids"]), one["closed"]) for one in values["thoughts"])
    return KeptVideo(**values | {"thoughts": thoughts})
