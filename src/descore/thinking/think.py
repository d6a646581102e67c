"""Thinking: sample thoughts for videos from one prefill, and score each thought from the cache it was written to.

All videos and thoughts are decoded in one batch. When a thought ends, the next step feeds it the query token, its
reward is read from that state, and its slot is released. So a reward costs one token and no second pass over the video.
If the query tokens stand in the prefix, or the head reads the last token, the state is there when the thought ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from descore.inputs.processor import prefixes_of
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.model.thought_cache import ThoughtCache
from descore.seeding import generator
from descore.thinking.graphs import Step, fastest_step
from descore.types import Branches, Group, Layout, Thought, VideoFeatures


@torch.no_grad()
def think(
    model: RewardModel,
    videos: Branches,
    sampling: Sampling | None = None,
    *,
    names: Sequence[str] | None = None,
    seen: Sequence[VideoFeatures] | None = None,
) -> list[Group]:
    """Sample thoughts for each video of a batch, and score each thought by the head.

    Args:
        model: Model that thinks; it is in eval mode during the call.
        videos: Packed batch of videos; only its prefixes are read.
        sampling: Sampling options; one greedy thought per video if not given.
        names: Unique name of each video, which keys its sampled tokens; its index in the batch if not given.
        seen: Output of `model.see` for these videos. If given, the vision tower does not run again.

    Returns:
        One group of thoughts per video.

    Raises:
        FloatingPointError: If the model's logits are not finite.
        ValueError: If the numbers of names and videos differ.
    """
    num_videos = len(videos.layout.prefix_lengths)
    names = [str(index) for index in range(num_videos)] if names is None else names
    if len(names) != num_videos:
        raise ValueError(f"expected one name per video, got {len(names)} names and {num_videos} videos")
    training = model.training
    model.eval()
    try:
        prefixes = model.processor.pack(prefixes_of(videos), [()] * num_videos)
        with fastest_step(model) as step:
            return _Thinker(model, step, prefixes, sampling or Sampling(), names, seen).run()
    finally:
        model.train(training)


def see_contexts(model: RewardModel, contexts: Branches) -> list[tuple[VideoFeatures, ...]]:
    """Run the vision tower once over each video of a batch.

    Args:
        model: The model.
        contexts: Packed batch of videos; of a model that compares two, N contexts with A first, then those with B
            first.

    Returns:
        The output for the videos of each context, in their order; all of it, one after the other, is what `seen` is.
    """
    if not model.settings.is_pairwise:
        return [(features,) for features in model.see(contexts)]
    prefixes = prefixes_of(contexts)
    a_first = prefixes[: len(prefixes) // 2]
    features = model.see(model.processor.pack(a_first, [()] * len(a_first)))
    pairs = list(zip(features[::2], features[1::2], strict=True))
    return [*pairs, *((b, a) for a, b in pairs)]


@dataclass(slots=True)
class _Slot:
    """A growing thought, and the hidden states that the head reads."""

    noise: Tensor | None  # [max_tokens + 1], one uniform draw per position; None if greedy
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    closed: bool = False
    states: list[Tensor] = field(default_factory=list)


class _Thinker:
    """State of one call of `think`: row i of the batch is slot i of the cache, in the order of the videos."""

    def __init__(
        self,
        model: RewardModel,
        step: Step,
        prefixes: Branches,
        sampling: Sampling,
        names: Sequence[str],
        seen: Sequence[VideoFeatures] | None = None,
    ) -> None:
        self.model = model
        self.step = step
        self.sampling = sampling
        self.appended_ids = model.processor.appended_ids
        self.end_id = model.processor.end_id
        self.limit = sampling.max_tokens or model.settings.max_thought_tokens
        lengths = prefixes.layout.prefix_lengths
        prefill = DynamicCache(config=model.base.config.get_text_config())
        hidden = model.hidden(prefixes, prefill, seen=seen)
        self.slots = [
            [_Slot(self._noise(name, k), states=list(states)) for k in range(sampling.num_thoughts)]
            for name, states in zip(names, _states_in_prefixes(hidden, prefixes.layout), strict=True)
        ]
        self.rows: list[_Slot | None] = [slot for slots in self.slots for slot in slots]
        self.cache = ThoughtCache(prefill, lengths, sampling.num_thoughts)
        ends = (torch.tensor(lengths).cumsum(0) - 1).repeat_interleave(sampling.num_thoughts).to(hidden.device)
        self.hidden = hidden[ends]  # [rows, hidden]
        self.positions = prefixes.position_ids[:, 0, ends]  # [R, rows]

    def run(self) -> list[Group]:
        """Decode until every thought is scored."""
        while any(self.rows):
            fed = self._choose()
            if not any(self.rows):
                break
            self._advance(fed)
            for row, (slot, token) in enumerate(zip(self.rows, fed, strict=True)):
                if slot is not None and token in self.appended_ids:
                    slot.states.append(self.hidden[row])
                    if len(slot.states) == len(self.appended_ids):
                        self.rows[row] = None
            self._shrink()
        return [self._group(slots) for slots in self.slots]

    def _choose(self) -> list[int]:
        """Return the token that each row is fed next."""
        logprobs = self.sampling.warp(self.model.next_logits(self.hidden)).log_softmax(-1)
        chosen = logprobs.argmax(-1) if self.sampling.temperature == 0 else self._sample(logprobs)
        picked = logprobs.gather(1, chosen[:, None])[:, 0]
        if bool(picked.isnan().any()):
            raise FloatingPointError("the model's logits are not finite; its weights have diverged or were not loaded")
        pairs = zip(chosen.tolist(), picked.tolist(), strict=True)
        return [self._grow(row, *pair) for row, pair in enumerate(pairs)]

    def _sample(self, logprobs: Tensor) -> Tensor:
        """Sample a token per row: invert the cumulative distribution at the row's own draw for this position."""
        noises = [(slot.noise, len(slot.tokens)) if slot is not None else (None, 0) for slot in self.rows]
        draws = [0.0 if noise is None else noise[position].item() for noise, position in noises]
        mass = logprobs.exp().cumsum(-1)
        wanted = torch.tensor(draws, device=mass.device)[:, None] * mass[:, -1:]
        return torch.searchsorted(mass, wanted, right=True)[:, 0].clamp(max=mass.shape[1] - 1)

    def _grow(self, row: int, token: int, logprob: float) -> int:
        """Append a token to an unfinished thought; return the token to feed: that one, or the next query token."""
        if (slot := self.rows[row]) is None:
            return self.end_id
        if slot.closed or len(slot.tokens) == self.limit:
            return self._end(row, slot)
        slot.logprobs.append(logprob)
        if token == self.end_id:
            slot.closed = True
            return self._end(row, slot)
        slot.tokens.append(token)
        return token

    def _end(self, row: int, slot: _Slot) -> int:
        """Return the next query token of a thought that has ended; if none is fed, its row is finished."""
        if self.appended_ids:
            return self.appended_ids[len(slot.states)]
        slot.states = slot.states or [self.hidden[row]]
        self.rows[row] = None
        return self.end_id

    def _advance(self, tokens: list[int]) -> None:
        """Run one decoding step with one token per row."""
        self.positions = self.positions + 1
        input_ids = torch.tensor(tokens, device=self.positions.device)[:, None]
        self.hidden = self.step(input_ids, self.positions[:, :, None], self.cache)

    def _shrink(self) -> None:
        """Compact the batch once a quarter of the rows are finished; each remaining video keeps equally many rows."""
        per_video = len(self.rows) // self.cache.num_videos
        left = [
            [row for row in range(start, start + per_video) if self.rows[row] is not None]
            for start in range(0, len(self.rows), per_video)
        ]
        width = max(map(len, left))
        videos = [video for video, rows in enumerate(left) if rows]
        if not videos or len(videos) * width > 0.75 * len(self.rows):
            return
        # A video with fewer unfinished thoughts than another repeats its last row; the copy belongs to no slot.
        index = [row for rows in left if rows for row in rows + rows[-1:] * (width - len(rows))]
        self.rows = [
            slot for rows in left if rows for slot in [self.rows[row] for row in rows] + [None] * (width - len(rows))
        ]
        flat = torch.tensor(index, device=self.hidden.device)
        self.cache.keep(torch.tensor(videos, device=flat.device), flat)
        self.hidden, self.positions = self.hidden[flat], self.positions[:, flat]

    def _group(self, slots: list[_Slot]) -> Group:
        rewards = self.model.head(torch.stack([torch.stack(slot.states) for slot in slots]))
        thoughts = tuple(Thought(tuple(slot.tokens), slot.closed) for slot in slots)
        texts = tuple(self.model.processor.thought_text(thought.token_ids) for thought in thoughts)
        return Group(thoughts, texts, tuple(torch.tensor(slot.logprobs) for slot in slots), rewards)

    def _noise(self, name: str, index: int) -> Tensor | None:
        if self.sampling.temperature == 0:
            return None
        return torch.rand(self.limit + 1, generator=generator(self.sampling.seed, "thought", name, index))


def _states_in_prefixes(hidden: Tensor, layout: Layout) -> Tensor:
    """Return the states of the query tokens that stand in each prefix, `[V, Q, hidden]`; Q is 0 if none do."""
    rows = torch.split(hidden, [prefix + sum(branches) for prefix, branches in layout.videos])
    queries = layout.query_indices or [()] * len(rows)
    return torch.stack([row[list(own)] for row, own in zip(rows, queries, strict=True)])
