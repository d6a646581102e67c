"""What the packages exchange: pairs, frames, thoughts, packed batches with the shape of each tensor, and an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DIMENSIONS = ("subject", "dynamics", "camera", "environment", "style")
"""Names of the five dimensions that a thought scores. The first two are primary, the others secondary."""

DimensionScores = dict[str, int | None]
"""Score of each dimension by name: 2 perfect, 1 partial, 0 failed, None (N/A) where the prompt does not ask for it."""


class ModelError(ValueError):
    """Raised for a model that cannot be loaded, or that cannot do what was asked of it; the message says why."""


@dataclass(frozen=True, slots=True)
class Side:
    """One video of a pair, and what the table says about it.

    Attributes:
        video: Path of the video file.
        thought: Teacher's thought with its `<answer>` block; empty if the table has none.
        scores: Annotated dimension scores, against which rollout rewards grade a thought; None if the table has none.
        mos: Mean opinion score for each reward dimension; empty if the table has none.
        generator: Name of the model that generated the video; empty if the table does not say.
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
        id: Name of the pair, unique in its table; the key of every random draw about the pair.
        prompt: Text that both videos were generated from.
        a: Video A.
        b: Video B.
        preference: Preference in each reward dimension: +1 for A, -1 for B, 0 for a tie, nan for no usable label.
        thoughts: Thoughts about both videos, each with its verdict: with A first, and with B first. Each calls the
            video that it sees first the first. Empty where the table has none.
    """

    id: str
    prompt: str
    a: Side
    b: Side
    preference: tuple[float, ...]
    thoughts: tuple[str, str] = ("", "")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Pair:
        """Build a pair from the output of `dataclasses.asdict`, also after a round trip through JSON.

        >>> from dataclasses import asdict
        >>> pair = Pair("1", "a cat", Side("a.mp4", mos=(4.0,)), Side("b.mp4"), preference=(1.0,))
        >>> Pair.from_dict(asdict(pair)) == pair
        True
        """
        a, b = (Side(**side | {"mos": tuple(side["mos"])}) for side in (values["a"], values["b"]))
        a_first, b_first = values.get("thoughts", ("", ""))
        return cls(values["id"], values["prompt"], a, b, tuple(values["preference"]), (a_first, b_first))


@dataclass(frozen=True, slots=True)
class RatedVideo:
    """A prompt and one video that people rated by itself.

    Attributes:
        id: Name of the row, unique in its table.
        prompt: Text that the video was generated from.
        side: The video, whose `mos` holds one score for each reward dimension; nan for a missing score.
    """

    id: str
    prompt: str
    side: Side


@dataclass(frozen=True, slots=True)
class Frames:
    """Sampled frames of one video, resized for the backbone.

    Attributes:
        pixels: RGB values, from 0 to 255.
        indices: Index of each frame in the source video.
        source_fps: Average frame rate of the source video, in frames per second.
        num_source_frames: Number of frames of the source video.
        times: When each frame is shown, in seconds after the first one of the source; empty at a constant frame rate.

    >>> import torch
    >>> Frames(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), (0, 5), source_fps=10.0, num_source_frames=6).seconds
    (0.0, 0.5)
    """

    pixels: Tensor  # [T, 3, H, W] uint8
    indices: tuple[int, ...]
    source_fps: float
    num_source_frames: int
    times: tuple[float, ...] = ()

    @property
    def seconds(self) -> tuple[float, ...]:
        """When each frame is shown, in seconds after the first frame of the source video, at any frame rate."""
        return self.times or tuple(index / self.source_fps for index in self.indices)


PairFrames = tuple[Frames, Frames]
"""Frames of video A and of video B of a pair."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Everything before a thought: system turn, user turn with a video or the two compared, and assistant header.

    Attributes:
        input_ids: Token ids, with one video placeholder for each video token.
        position_ids: M-RoPE positions in time, height and width; no rows for a backbone without M-RoPE.
        patches: Pixels in the order in which the vision tower reads them, before `Processor.normalise`.
        grids: Number of patches in time, height and width of each video: one, two, or all that a conversation shows.
        query_index: Indices of the query tokens in the prefix; empty if the head reads the end of a branch.
        turns: Start and end of each earlier turn of the model, its end of turn included; none outside a conversation.
    """

    input_ids: Tensor  # [P] int64
    position_ids: Tensor  # [3, P] or [0, P] int64
    patches: Tensor  # [num_patches, patch_dim] uint8
    grids: Tensor  # [videos, 3] int64
    query_index: tuple[int, ...] = ()
    turns: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class VideoFeatures:
    """Output of the vision tower for one video, kept so that the tower runs once per video.

    Attributes:
        main: Features of each video token.
        deepstack: Features that each DeepStack layer adds to the video tokens; empty for a backbone without DeepStack.
    """

    main: Tensor  # [N, hidden]
    deepstack: tuple[Tensor, ...]  # of [N, hidden]


@dataclass(frozen=True, slots=True)
class Thought:
    """Tokens of one thought; `Thought()` stands for a branch without a thought.

    Attributes:
        token_ids: Token ids, without the end of turn.
        closed: Whether an end of turn follows; false for a thought that was cut at the length limit, and for none.
    """

    token_ids: tuple[int, ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Lengths of the parts of a packed row: `[prefix_1 | its branches | prefix_2 | its branches | ...]`.

    Attributes:
        prefix_lengths: Number of tokens of each video's prefix.
        branch_lengths: Number of tokens of each branch of each video, its query tokens included; it may be 0.
        query_indices: `Prefix.query_index` of each video; empty if no prefix has query tokens.
        num_grids: Number of grids of each prefix, see `Prefix.grids`.

    >>> Layout(prefix_lengths=(5, 4), branch_lengths=((3, 1), (2, 2))).num_tokens
    17
    """

    prefix_lengths: tuple[int, ...]  # Python numbers, by which slicing never waits for a device
    branch_lengths: tuple[tuple[int, ...], ...]
    query_indices: tuple[tuple[int, ...], ...] = ()
    num_grids: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the packed row."""
        return sum(self.prefix_lengths) + sum(sum(lengths) for lengths in self.branch_lengths)

    @property
    def num_branches(self) -> int:
        """Number of branches of all videos."""
        return sum(len(lengths) for lengths in self.branch_lengths)

    @property
    def videos(self) -> list[tuple[int, tuple[int, ...]]]:
        """Length of the prefix of each video, and the lengths of those of its branches that have a token."""
        pairs = zip(self.prefix_lengths, self.branch_lengths, strict=True)
        return [(prefix, tuple(filter(None, lengths))) for prefix, lengths in pairs]


class OfTensors:
    """Base of a dataclass of tensors, and of others like it, that moves as a whole."""

    __slots__ = ()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return a copy with every tensor on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy with every tensor in pinned memory; DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Callable[[Tensor], Tensor]) -> Self:
        from torch import Tensor

        own: Any = self
        values = {item.name: getattr(own, item.name) for item in fields(own)}
        moved: dict[str, Any] = {name: move(value) for name, value in values.items() if isinstance(value, Tensor)}
        moved |= {name: value._map(move) for name, value in values.items() if isinstance(value, OfTensors)}
        return replace(own, **moved)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Branches(OfTensors):
    """A packed batch without padding: each video's prefix followed by its branches, all in one row.

    Shapes: T tokens, V videos, B branches of all videos (ordered by video), Q states that the head reads for a branch,
    M predicted tokens. Where two videos are compared in one prefix, a row has half as many prefixes as videos.

    Attributes:
        input_ids: Token ids of the packed row.
        position_ids: Text positions in row 0 and M-RoPE positions in rows 1 to 3, which a backbone without M-RoPE does
            not have: R = 4 or 1 rows. Each branch starts where its prefix ends.
        layout: Lengths of prefixes and branches.
        query_index: Indices of the states that the head reads: query tokens of branch or prefix, or the last token.
        source_index: Indices in the row of the hidden states that predict the thoughts' tokens.
        target_ids: Token ids to predict from those states: each thought, and its end of turn if it is closed.
        target_branch: Index of the branch to which each predicted token belongs.
        patches: Pixels of all videos, as in `Prefix`.
        grids: Number of patches in time, height and width of each video.
    """

    input_ids: Tensor  # [1, T] int64
    position_ids: Tensor  # [R, 1, T] int64
    layout: Layout
    query_index: Tensor  # [B, Q] int64
    source_index: Tensor  # [M] int64
    target_ids: Tensor  # [M] int64
    target_branch: Tensor  # [M] int64
    patches: Tensor  # [num_patches, patch_dim] uint8
    grids: Tensor  # [V, 3] int64


@dataclass(frozen=True, slots=True)
class PairBatch(OfTensors):
    """N pairs packed for one forward pass, with labels in K reward dimensions.

    Attributes:
        pairs: The pairs, for their ids and for logging.
        branches: Packed inputs of 2N videos: first video A of every pair, then video B of every pair. For a model that
            compares two videos, those of 2N contexts: both videos of every pair with A first, then with B first.
        thoughts: Thoughts of each of the 2N videos or contexts, one for each branch.
        preference: Preference of each pair: +1 for A, -1 for B, 0 for a tie, nan for no usable label.
        mos: Mean opinion scores of the videos A and of the videos B; nan where the table has none.
        masked: Whether the thoughts of each pair are masked in this batch.
        frames: Frames of each of the 2N videos if the collator keeps them for logging; empty otherwise.
    """

    pairs: tuple[Pair, ...]
    branches: Branches
    thoughts: tuple[tuple[Thought, ...], ...]
    preference: Tensor  # [N, K] float32
    mos: Tensor  # [2, N, K] float32
    masked: Tensor  # [N] bool
    frames: tuple[Frames, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Group:
    """The n thoughts sampled for one video, with their rewards in K reward dimensions.

    Attributes:
        thoughts: Tokens of each thought.
        texts: Text of each thought.
        logprobs: Log-probability of each sampled token of each thought, the end of turn included.
        rewards: Reward of each thought.
    """

    thoughts: tuple[Thought, ...]
    texts: tuple[str, ...]
    logprobs: tuple[Tensor, ...]  # n of [R (+ 1 if closed)] float32
    rewards: Tensor  # [n, K] float32
