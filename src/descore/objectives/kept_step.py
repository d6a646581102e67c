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
    """The thoughts of a step about one video, n branches; the numbers are those of stage 2, and empty in stage 1.

    Attributes:
        thoughts: Thoughts, in the order of their branches.
        advantages: Advantage of each thought; nan where it does not count.
        old_logprobs: Log-probability of each token when it was sampled, by thought.
        reference_logprobs: The same under the reference; empty without a reference.
    """

    thoughts: tuple[Thought, ...]
    advantages: tuple[float, ...] = ()
    old_logprobs: tuple[tuple[float, ...], ...] = ()
    reference_logprobs: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class KeptStep:
    """A training step whose loss or gradient was not finite, as one rank saw it.

    Attributes:
        stage: Stage that took the step.
        step: Number of optimizer steps before it.
        precision: Lightning's name of the precision.
        objective: Options of the stage's objective, by name.
        sampling: Options by which the thoughts were sampled; empty in stage 1.
        pairs: Pairs of the step.
        videos: Thoughts about the videos A and B of every pair.
    """

    stage: Literal["cold_start", "checklist", "choice", "rl"]
    step: int
    precision: str
    objective: Mapping[str, Any]
    sampling: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    videos: tuple[tuple[KeptVideo, KeptVideo], ...]

    def write(self, file: Path) -> None:
        """Write the step as a JSON file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, file: Path) -> KeptStep:
        """Read a step that `write` has written."""
        values = json.loads(file.read_text())
        values["pairs"] = tuple(map(Pair.from_dict, values["pairs"]))
        values["videos"] = tuple((_video(a), _video(b)) for a, b in values["videos"])
        return cls(**values)


def keep_video(rollouts: Rollouts, video: int, reference_logprobs: Tensor | None) -> KeptVideo:
    """Copy the thoughts about one video out of a rollout batch, with the numbers that the losses read.

    Args:
        rollouts: Rollout batch of V videos.
        video: Index of the video.
        reference_logprobs: `[V, n, T]` log-probabilities under the reference; None without a reference.
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
