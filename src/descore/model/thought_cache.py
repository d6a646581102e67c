"""Key-value cache for sampling thoughts: one prefix per video, shared by all of its thoughts and never copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

_GROWTH = (64, 512)
"""Initial capacity of a slot in tokens, and the most that one growth adds: capacity doubles up to that."""


def capacity(num_tokens: int) -> int:
    """Return the capacity, in tokens, of a slot that holds a number of tokens.

    >>> [capacity(num_tokens) for num_tokens in (1, 64, 65, 600, 4097)]
    [64, 64, 128, 1024, 4608]
    """
    room, most = _GROWTH
    while room < num_tokens:
        room += min(room, most)
    return room


class ThoughtCache:
    """Keys and values of V prefixes, and of n slots per prefix in which thoughts grow by one token a step.

    It takes the place of transformers' cache in a forward of one token per slot; `attend` is the attention over it.

    Args:
        prefill: Cache of the packed prefixes; each layer of attention holds `[1, H_kv, T, d]`, each linear layer the V
            states at the ends of the prefixes.
        prefix_lengths: Lengths of the V prefixes; their sum is T.
        num_slots: Number n of slots per video.

    >>> prefill = DynamicCache()
    >>> _ = prefill.update(torch.rand(1, 2, 5, 8), torch.rand(1, 2, 5, 8), 0)
    >>> cache = ThoughtCache(prefill, prefix_lengths=(3, 2), num_slots=4)
    >>> keys, values = cache.update(torch.rand(8, 2, 1, 8), torch.rand(8, 2, 1, 8), 0)
    >>> cache.step()
    >>> cache.num_videos, cache.length, keys.shape
    (2, 1, torch.Size([8, 2, 1, 8]))

    Attributes:
        length: Number of tokens in a slot so far.
        layout: Number of times that the memory of the slots was replaced.
    """

    _place: Tensor | None = None  # [1] where a captured step writes; None if at `length`
    _later: Tensor | None = None  # [capacity] whether a place comes after that one

    def __init__(self, prefill: DynamicCache, prefix_lengths: Sequence[int], num_slots: int) -> None:
        lengths = list(prefix_lengths)
        self.states: dict[int, tuple[Tensor, Tensor]] = {}  # of a linear layer: [V * n, ...], forked from the prefixes
        attending: dict[int, Any] = {}
        for index, layer in enumerate(prefill.layers):
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                ends = (layer.conv_states[0], layer.recurrent_states[0])
                self.states[index] = tuple(state.repeat_interleave(num_slots, dim=0) for state in ends)
            else:
                attending[index] = layer
        # Under autocast the keys are float32: cast them once here, or every step would cast all of them.
        self.prefix_keys = {i: _pad(layer.keys.to(layer.values.dtype), lengths) for i, layer in attending.items()}
        self.prefix_values = {i: _pad(layer.values, lengths) for i, layer in attending.items()}
        device = next(iter(self.prefix_keys.values())).device
        steps = torch.arange(max(lengths), device=device)
        self.prefix_mask = steps >= torch.tensor(lengths, device=device)[:, None]
        self.keys = {i: self._empty(keys, num_slots) for i, keys in self.prefix_keys.items()}
        self.values = {i: self._empty(values, num_slots) for i, values in self.prefix_values.items()}
        self.length = 0
        self.layout = 0

    @property
    def num_videos(self) -> int:
        """Number of videos that still have an unfinished thought."""
        return len(self.prefix_mask)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append one token per slot to a layer, keys and values `[V * n, H_kv, 1, d]`.

        Returns:
            Keys and values of all R tokens of the slots, each `[V * n, H_kv, R, d]`; in `writing_at` of all places.
        """
        if self._place is not None:
            self.keys[layer].index_copy_(2, self._place, keys.to(self.keys[layer].dtype))
            self.values[layer].index_copy_(2, self._place, values.to(self.values[layer].dtype))
            return self.keys[layer], self.values[layer]
        self.make_room()
        end = self.length + 1
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def make_room(self) -> None:
        """Make room for one more token in every slot."""
        if self.length + 1 > next(iter(self.keys.values())).shape[2]:
            self.layout += 1
            for layer in self.keys:  # one by one: the old memory of a layer is free when the next one grows
                self.keys[layer] = _extend(self.keys[layer], self.length + 1)
                self.values[layer] = _extend(self.values[layer], self.length + 1)

    def step(self) -> None:
        """Count the new token, once `update` has stored it in every layer."""
        self.length += self._place is None

    @contextmanager
    def writing_at(self, place: Tensor) -> Iterator[None]:
        """Write tokens where a tensor says, `[1]`, and attend to all places up to it: one step serves every place.

        Who replays such a step makes room before it, and counts the token by `step` after it.
        """
        capacity = next(iter(self.keys.values())).shape[2]
        self._place, self._later = place, torch.arange(capacity, device=place.device) > place
        try:
            yield
        finally:
            self._place = self._later = None

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, layer: int, scaling: float) -> Tensor:
        """Attend from one token per slot to the prefix of its video and to the slot's own tokens.

        Args:
            query: Queries of the new tokens, `[V * n, H, 1, d]`.
            keys: Keys of the slots, `[V * n, H_kv, R, d]`, as `update` returned them.
            values: Values of the slots, `[V * n, H_kv, R, d]`, as `update` returned them.
            layer: Index of the layer.
            scaling: Factor on the attention scores.

        Returns:
            Outputs, `[V * n, 1, H, d]`.
        """
        rows, heads, _, size = query.shape
        prefix_keys, prefix_values = self.prefix_keys[layer], self.prefix_values[layer]
        slots = rows // self.num_videos
        own = query.view(rows, keys.shape[1], -1, size)
        to_prefix = _by_video(own, slots) @ prefix_keys.mT
        to_prefix = _by_slot(to_prefix.masked_fill(self.prefix_mask[:, None, None], -torch.inf), slots)
        to_own = own @ keys.mT
        if self._later is not None:
            to_own = to_own.masked_fill(self._later, -torch.inf)
        scores = torch.cat([to_prefix, to_own], dim=-1) * scaling
        weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
        on_prefix, on_own = torch.split(weights, [prefix_keys.shape[2], keys.shape[2]], dim=-1)
        from_prefix = _by_slot(_by_video(on_prefix, slots) @ prefix_values, slots)
        return (from_prefix + on_own @ values).reshape(rows, 1, heads, size)

    def keep(self, videos: Tensor, rows: Tensor) -> None:
        """Compact the cache to some videos and, of each, the same number of slots.

        Args:
            videos: `[V']` indices of the videos to keep.
            rows: `[V' * n']` indices of the slots to keep, video by video.
        """
        self.layout += 1
        self.prefix_keys = {i: keys[videos] for i, keys in self.prefix_keys.items()}
        self.prefix_values = {i: values[videos] for i, values in self.prefix_values.items()}
        self.prefix_mask = self.prefix_mask[videos]
        self.keys = {i: keys[rows] for i, keys in self.keys.items()}
        self.values = {i: values[rows] for i, values in self.values.items()}
        self.states = {i: (conv[rows], recurrent[rows]) for i, (conv, recurrent) in self.states.items()}

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        """Return the last inputs of a linear layer's convolution, which the layer changes in place."""
        return self.states[layer_idx][0]

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        """Return the state of a linear layer."""
        return self.states[layer_idx][1]

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return whether states before the last are kept: never."""
        return False

    def update_recurrent_state(self, states: Tensor, layer_idx: int) -> Tensor:
        """Replace the state of a linear layer by that after one more token of every slot."""
        self.states[layer_idx] = (self.states[layer_idx][0], states)
        return states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens in a slot so far; transformers calls this."""
        return self.length

    @staticmethod
    def _empty(prefix: Tensor, num_slots: int) -> Tensor:
        videos, heads, _, size = prefix.shape
        return prefix.new_zeros(videos * num_slots, heads, capacity(1), size)


def _by_video(heads: Tensor, slots: int) -> Tensor:
    """Group heads by video, [V * n, H_kv, s, x] -> [V, H_kv, n * s, x]: s query heads per key head, for all slots."""
    return heads.view(-1, slots, *heads.shape[1:]).transpose(1, 2).flatten(2, 3)


def _by_slot(heads: Tensor, slots: int) -> Tensor:
    """Undo `_by_video`."""
    return heads.view(*heads.shape[:2], slots, -1, heads.shape[3]).transpose(1, 2).flatten(0, 1)


def _pad(packed: Tensor, lengths: list[int]) -> Tensor:
    """Split packed prefixes into a padded batch: [1, H, T, d] -> [V, H, max(P), d]."""
    rows = torch.split(packed[0].transpose(0, 1), lengths)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).transpose(1, 2).contiguous()


def _extend(tensor: Tensor, num_tokens: int) -> Tensor:
    rows, heads, length, size = tensor.shape
    return torch.cat([tensor, tensor.new_zeros(rows, heads, capacity(num_tokens) - length, size)], dim=2)
