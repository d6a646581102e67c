"""Gated DeltaNet over packed rows: the state at the end of a prefix forks into the branches of the prefix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from descore.types import Layout


class ForkingDeltaNet(Qwen3_5GatedDeltaNet):  # type: ignore[misc]
    """Gated DeltaNet over packed rows: a prefix runs once, and each of its branches goes on from where it ends."""

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        *,
        layout: Layout | None = None,
        thought_cache: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Run over a packed row [1, T, hidden], or without a layout as transformers' own layer does.

        Args:
            hidden_states: Hidden states of the row; with a thought cache, of one token per slot, [V * n, 1, hidden].
            cache_params: Cache that takes the states at the ends of the prefixes, or the thought cache.
            attention_mask: Mask of padding, without a layout.
            layout: Lengths of the prefixes and branches that make up T.
            thought_cache: The thought cache, which is `cache_params` too.
            **kwargs: Further arguments of transformers' own layer; unused with a layout.

        Returns:
            Outputs, shaped like `hidden_states`.
        """
        if layout is None:
            return super().forward(hidden_states, cache_params, attention_mask, **kwargs)  # type: ignore[no-any-return]
        lengths = layout.videos
        rows = torch.split(hidden_states, [prefix + sum(branches) for prefix, branches in lengths], dim=1)
        outputs: list[Tensor] = []
        ends: list[_States] = []
        for row, (prefix, branches) in zip(rows, lengths, strict=True):
            trunk, own = torch.split(row, [prefix, sum(branches)], dim=1)
            states = _States()
            outputs.append(super().forward(trunk, states))
            ends.append(states)
            if branches:
                # Branches are padded at the end, where nothing that is real comes after the padding.
                padded = nn.utils.rnn.pad_sequence(list(torch.split(own[0], list(branches))), batch_first=True)
                found = super().forward(padded, states.fork(len(branches)))
                outputs += [found[index : index + 1, :length] for index, length in enumerate(branches)]
        if isinstance(cache_params, Cache):
            cache_params.update_conv_state(torch.cat([one.conv for one in ends]), self.layer_idx)
            cache_params.update_recurrent_state(torch.cat([one.recurrent for one in ends]), self.layer_idx)
        return torch.cat(outputs, dim=1)


class _States:
    """States of one linear layer, in place of transformers' cache, which would change them in place."""

    def __init__(self, conv: Any = None, recurrent: Any = None) -> None:
        self.conv = conv  # [B, channels, kernel]: the last inputs of the convolution
        self.recurrent = recurrent  # [B, H, d_k, d_v]

    def fork(self, num_branches: int) -> _States:
        """Return these states for each of several branches."""
        return _States(*(state.expand(num_branches, *state.shape[1:]) for state in (self.conv, self.recurrent)))

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self.conv  # type: ignore[no-any-return]

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self.recurrent  # type: ignore[no-any-return]

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return True, or a branch of one token would write to the states of its siblings."""
        return True

    def update_conv_state(self, inputs: Tensor, layer_idx: int, conv_kernel_size: int) -> Tensor:
        seen = inputs if self.conv is None else torch.cat([self.conv, inputs], dim=-1)
        self.conv = F.pad(seen, (max(conv_kernel_size - seen.shape[-1], 0), 0))[..., -conv_kernel_size:]
        return seen

    def update_recurrent_state(self, states: Tensor, layer_idx: int) -> Tensor:
        self.recurrent = states
        return states
