"""Collates pairs into one packed batch: reads videos, tokenises, masks thoughts and packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptError
from descore.seeding import uniform
from descore.types import Frames, Pair, PairBatch, PairFrames, Prefix, Thought

Masking = Literal["sampled", "both"]
Read = Callable[[str], Frames]


class PairCollator:
    """Turns pairs into a `PairBatch`, in the workers of the loader.

    Args:
        processor: Processor that turns prompts, videos and thoughts into inputs.
        thoughts: Whether the batch has the teacher's thoughts, of a model that compares those about both videos;
            without them, every branch is the query tokens alone.
        masking: Branches of each video. "sampled" gives one branch, without its thought if the pair is masked; "both"
            gives two, one with the thought and one without, at the cost of one more set of query tokens.
        mask_prob: Probability that "sampled" masks a pair; there is one draw for each pair and epoch.
        seed: Seed of the masks.
        keep_frames: Whether the batch keeps the frames of its videos, for logging.
        read: Function that reads a video, such as a `FrameCache`; `processor.read` if None.

    >>> from descore.inputs.settings import ModelSettings
    >>> from descore.types import Side
    >>> processor = Processor(ModelSettings(backbone="tiny", template="Does it show {prompt}?"))
    >>> frames = Frames(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), (0, 8), 8.0, 16)
    >>> pair = Pair("p1", "a cat", Side("a.mp4", thought="A cat."), Side("b.mp4"), preference=(1.0,))
    >>> batch = PairCollator(processor, read=lambda path: frames)(epoch=0, pairs=[pair])
    >>> batch.preference, batch.masked
    (tensor([[1.]]), tensor([False]))
    >>> len(batch.thoughts[0][0].token_ids), batch.branches.layout.branch_lengths  # one query token each
    (5, ((6,), (1,)))
    """

    def __init__(
        self,
        processor: Processor,
        *,
        thoughts: bool = True,
        masking: Masking = "sampled",
        mask_prob: float = 0.0,
        seed: int = 0,
        keep_frames: bool = False,
        read: Read | None = None,
    ) -> None:
        self.processor = processor
        self.thoughts = thoughts
        self.masking = masking
        self.mask_prob = mask_prob
        self.seed = seed
        self.keep_frames = keep_frames
        self.read = read

    def frames(self, pair: Pair) -> PairFrames:
        """Read both videos of a pair.

        Raises:
            VideoError: If a video cannot be read.
        """
        read = self.read or self.processor.read
        return read(pair.a.video), read(pair.b.video)

    def __call__(self, epoch: int, pairs: Sequence[Pair], pair_frames: Sequence[PairFrames] | None = None) -> PairBatch:
        """Build the batch of N pairs.

        Args:
            epoch: Number of the epoch; each epoch draws new masks.
            pairs: Pairs of the batch.
            pair_frames: Frames of each pair, as `frames` returns them; None reads them here.

        Raises:
            PromptError: If a prompt is blank or longer than the model's limit.
            ValueError: If a pair does not have as many labels as the model has rewards.
            VideoError: If a video cannot be read.
        """
        self._check_labels(pairs)
        both = [self.frames(pair) for pair in pairs] if pair_frames is None else pair_frames
        masked = [self._masks(epoch, pair) for pair in pairs]
        contexts = [(pair, place, mask) for place in (0, 1) for pair, mask in zip(pairs, masked, strict=True)]
        frames = [seen for seen, _ in both] + [seen for _, seen in both]
        of_a, of_b = zip(*(self.contexts(*seen) for seen in both), strict=True)
        inputs = [self._inputs(*one, seen) for one, seen in zip(contexts, of_a + of_b, strict=True)]
        prefixes, branches = map(list, zip(*inputs, strict=True))
        unknown = (float("nan"),) * len(self.processor.settings.reward_names)
        return PairBatch(
            pairs=tuple(pairs),
            branches=self.processor.pack(prefixes, branches),
            thoughts=tuple(map(tuple, branches)),
            preference=torch.tensor([pair.preference for pair in pairs]),
            mos=torch.tensor([[pair.a.mos or unknown for pair in pairs], [pair.b.mos or unknown for pair in pairs]]),
            masked=torch.tensor(masked),
            frames=tuple(frames) if self.keep_frames else (),
        )

    def _inputs(self, pair: Pair, *video: Any) -> tuple[Prefix, list[Thought]]:
        try:
            return self.inputs(pair, *video)
        except PromptError as error:
            raise PromptError(f"pair {pair.id!r}: {error}") from error

    def contexts(self, a: Frames, b: Frames) -> tuple[tuple[Frames, ...], tuple[Frames, ...]]:
        """Return the videos in both contexts of a pair: each by itself, or both with A first and with B first."""
        return ((a, b), (b, a)) if self.processor.settings.is_pairwise else ((a,), (b,))

    def inputs(self, pair: Pair, place: int, masked: bool, videos: Sequence[Frames]) -> tuple[Prefix, list[Thought]]:
        """Return the prefix and the branches of one context of a pair.

        Args:
            pair: The pair.
            place: As for `branches`.
            masked: Whether the pair is masked.
            videos: Videos in this context.

        Raises:
            PromptError: If the prompt cannot be used.
        """
        return self.processor.prefix(pair.prompt, *videos), self.branches(pair, place, masked)

    def branches(self, pair: Pair, place: int, masked: bool) -> list[Thought]:
        """Return the branches of one context of a pair.

        Args:
            pair: The pair.
            place: 0 for video A, or both with A first; 1 for video B, or both with B first.
            masked: Whether the pair is masked.
        """
        texts = pair.thoughts if self.processor.settings.is_pairwise else (pair.a.thought, pair.b.thought)
        thought = self.processor.thought(texts[place]) if self.thoughts else Thought()
        if self.masking == "both":
            return [thought, Thought()]
        return [Thought() if masked else thought]

    def _check_labels(self, pairs: Sequence[Pair]) -> None:
        names = self.processor.settings.reward_names
        for pair in pairs:
            for labels in (pair.preference, pair.a.mos or names, pair.b.mos or names):
                if len(labels) != len(names):
                    raise ValueError(
                        f"pair {pair.id!r} has {len(labels)} labels {tuple(labels)}, but the model has {len(names)} "
                        f"rewards {tuple(names)}: set --data.dimensions and --model.reward_names to the same names"
                    )

    def _masks(self, epoch: int, pair: Pair) -> bool:
        return self.masking == "sampled" and uniform(self.seed, "cot_mask", epoch, pair.id) < self.mask_prob
