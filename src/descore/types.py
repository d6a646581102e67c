"""What passes between the rooms: frozen dataclasses, one shape comment per tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

DIMENSIONS = ("subject", "dynamics", "camera", "environment", "style")
"""The five things a thought scores. The first two are primary, the others secondary."""

DimensionScores = dict[str, int | None]
"""One score per dimension: 2 perfect, 1 partial, 0 failed, None where the prompt does not ask for it (N/A)."""


@dataclass(frozen=True, slots=True)
class Side:
    """One video of a pair and what is known of it.

    Attributes:
        video: Path of the video file.
        thought: The teacher's thought with its `<answer>` block; empty when there is none.
        scores: The annotated dimension scores, the truth that the rollout reward compares with.
        mos: Mean opinion score per reward dimension; empty when the table has none.
        generator: Name of the model that made the video; empty when the table does not say.
    """

    video: str
    thought: str = ""
    scores: DimensionScores | None = None
    mos: tuple[float, ...] = ()
    generator: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, two videos, and which one people prefer.

    Attributes:
        id: Unique name in its table; every random draw about the pair is keyed by it.
        prompt: The text the videos were generated from.
        a: Video A.
        b: Video B.
        preference: One per reward dimension: +1 prefers A, -1 prefers B, 0 tie, nan no usable label.
    """

    id: str
    prompt: str
    a: Side
    b: Side
    preference: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Pair:
        """Build a pair of what `dataclasses.asdict` made of it, and JSON of that."""
        a, b = (Side(**side | {"mos": tuple(side["mos"])}) for side in (values["a"], values["b"]))
        return cls(values["id"], values["prompt"], a, b, tuple(values["preference"]))


@dataclass(frozen=True, slots=True)
class RatedVideo:
    """A prompt and one video, with what people think of it by itself.

    Attributes:
        id: Unique name in its table.
        prompt: The text the video was generated from.
        side: The video; its `mos` holds one score per reward dimension, nan where there is none.
    """

    id: str
    prompt: str
    side: Side


@dataclass(frozen=True, slots=True)
class Frames:
    """The sampled frames of one video, at the size the backbone reads.

    Attributes:
        pixels: RGB frames.
        indices: Index of each frame in the source video.
        source_fps: Frame rate of the source video, in frames per second.
        num_source_frames: Number of frames of the source video.
    """

    pixels: Tensor  # [T, 3, H, W] uint8
    indices: tuple[int, ...]
    source_fps: float
    num_source_frames: int


PairFrames = tuple[Frames, Frames]
"""The frames of a pair's videos, A and B."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Everything before a thought, for one video: system and user turn with the video, and the assistant header.

    Attributes:
        input_ids: Token ids, the video placeholders expanded.
        position_ids: M-RoPE positions: temporal, height, width.
        patches: Pixels in the order the vision tower reads them; `Processor.normalise` makes them its input.
        grid: Patches in time, height and width.
    """

    input_ids: Tensor  # [P] int64
    position_ids: Tensor  # [3, P] int64
    patches: Tensor  # [num_patches, patch_dim] uint8
    grid: Tensor  # [3] int64


@dataclass(frozen=True, slots=True)
class VideoFeatures:
    """What the vision tower made of one video, kept so that it need not look again.

    Attributes:
        main: One row per video token.
        deepstack: The same for each of the layers that add it once more; empty for a backbone without DeepStack.
    """

    main: Tensor  # [N, hidden]
    deepstack: tuple[Tensor, ...]  # of [N, hidden]


@dataclass(frozen=True, slots=True)
class Thought:
    """The tokens of one thought; `Thought()` is a branch without one.

    Attributes:
        token_ids: Token ids without the end of turn.
        closed: Whether the end of turn follows; false when cut at the length limit, or when there is no thought.
    """

    token_ids: tuple[int, ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where prefixes and branches lie in a packed row: `[prefix_1 | its branches | prefix_2 | its branches | ...]`.

    Plain numbers on the host, so that slicing by them never waits for a device.

    >>> Layout(prefix_lengths=(5, 4), branch_lengths=((3, 1), (2, 2))).num_tokens
    17
    """

    prefix_lengths: tuple[int, ...]
    branch_lengths: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Length of the packed row."""
        return sum(self.prefix_lengths) + sum(sum(lengths) for lengths in self.branch_lengths)

    @property
    def num_branches(self) -> int:
        """Number of branches over all videos."""
        return sum(len(lengths) for lengths in self.branch_lengths)


@dataclass(frozen=True, slots=True)
class Branches:
    """A packed batch without padding: each video's prefix followed by its branches, all in one row.

    T tokens, B branches over V videos, Q queries a branch, M predicted tokens. Branches are ordered by video.

    Attributes:
        input_ids: The packed row.
        position_ids: Row 0 counts tokens of a sequence, rows 1 to 3 are M-RoPE; a branch goes on from its prefix.
        layout: Lengths of prefixes and branches.
        query_index: Where each branch's query tokens lie in the row.
        source_index: Where the hidden states lie that predict the tokens of the thoughts.
        target_ids: The tokens predicted there: each thought and the end of turn that closes it.
        target_branch: The branch that each predicted token belongs to.
        patches: Pixels of all videos, as in `Prefix`.
        grids: Patches in time, height and width of each video.
    """

    input_ids: Tensor  # [1, T] int64
    position_ids: Tensor  # [4, 1, T] int64
    layout: Layout
    query_index: Tensor  # [B, Q] int64
    source_index: Tensor  # [M] int64
    target_ids: Tensor  # [M] int64
    target_branch: Tensor  # [M] int64
    patches: Tensor  # [num_patches, patch_dim] uint8
    grids: Tensor  # [V, 3] int64

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Branches:
        """Move every tensor to a device."""
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Branches:
        """Pin every tensor, as DataLoader asks of a batch."""
        return _map_tensors(self, Tensor.pin_memory)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs ready for one forward: `branches` holds the videos A of all N pairs, then their videos B.

    Attributes:
        pairs: The pairs themselves, for logging and for the ids.
        branches: Both videos of every pair.
        thoughts: The branches of each video, as they lie in `branches`.
        preference: +1 A, -1 B, 0 tie, nan unusable; K reward dimensions.
        mos: Mean opinion scores of A and of B; nan where the table has none.
        masked: Pairs that are scored without their thoughts in this batch.
        frames: Pixels of each video when asked for (logging); empty otherwise.
    """

    pairs: tuple[Pair, ...]
    branches: Branches
    thoughts: tuple[tuple[Thought, ...], ...]
    preference: Tensor  # [N, K] float32
    mos: Tensor  # [2, N, K] float32
    masked: Tensor  # [N] bool
    frames: tuple[Frames, ...] = field(default=())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PairBatch:
        """Move every tensor of the batch to a device."""
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """Pin every tensor, as DataLoader asks of a batch."""
        return _map_tensors(self, Tensor.pin_memory)


@dataclass(frozen=True, slots=True)
class Group:
    """The thoughts sampled for one video, each scored from the cache it was written in.

    Attributes:
        thoughts: The n thoughts.
        texts: Their texts.
        logprobs: Log-probability of each token as it was sampled, the end of turn included.
        rewards: What the head gives each thought.
    """

    thoughts: tuple[Thought, ...]
    texts: tuple[str, ...]
    logprobs: tuple[Tensor, ...]  # n of [R (+ 1 if closed)] float32
    rewards: Tensor  # [n, K] float32


Batch = TypeVar("Batch", Branches, PairBatch)


def _map_tensors(batch: Batch, move: Callable[[Tensor], Tensor]) -> Batch:
    changed: dict[str, Any] = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            changed[item.name] = move(value)
        elif isinstance(value, Branches):
            changed[item.name] = _map_tensors(value, move)
    return replace(batch, **changed)
