"""The head of a reward model: hidden states in, rewards out, in float32."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from descore.heads.settings import HeadSettings


class RewardHead(nn.Module):
    """Head of a reward model, in float32 even under autocast; the default is linear without bias, `r = w . h`.

    Args:
        hidden_size: Size of a hidden state of the backbone.
        num_rewards: Number K of rewards.
        settings: Form of the head; linear without bias if not given.

    >>> head = RewardHead(hidden_size=2, num_rewards=1)
    >>> _ = head.load_state_dict({"weight": torch.tensor([[1.0, -2.0]])})
    >>> head(torch.tensor([[[3.0, 1.0]]], dtype=torch.bfloat16)).tolist()
    [[1.0]]
    """

    def __init__(self, hidden_size: int, num_rewards: int, settings: HeadSettings | None = None) -> None:
        super().__init__()
        form = settings or HeadSettings()
        widths = [hidden_size, *form.hidden]
        gated = form.kind == "gated"
        rows, columns = (form.criteria, hidden_size) if gated else (num_rewards, widths[-1])
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.empty(rows)) if form.bias else None
        self.layers = nn.ModuleList(_empty_linear(*sizes, bias=form.bias) for sizes in pairwise(widths))
        self.gate = _empty_linear(widths[-1], num_rewards * form.criteria, bias=form.bias) if gated else None

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw new weights: hidden layers from `N(0, 2 / inputs)`, the others from `N(0, 0.02^2)`; biases are 0."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.zero_()
            else:
                scale = math.sqrt(2 / parameter.shape[1]) if name.startswith("layers.") else 0.02
                parameter.normal_(0, scale, generator=generator)

    def forward(self, states: Tensor) -> Tensor:
        """Map hidden states `[B, Q, hidden]`, Q = 1 or K, to rewards `[B, K]` float32.

        From one state all rewards are read; from K states, reward k is read from state k.
        """
        with torch.autocast(states.device.type, enabled=False):
            states = states.float()
            hidden = states
            for layer in self.layers:
                hidden = F.relu(_linear(layer, hidden))
            if self.gate is None:
                rewards = (hidden * self.weight.float()).sum(-1)
                return rewards if self.bias is None else rewards + self.bias.float()
            criteria = _linear(self, states)[:, :, None]  # [B, Q, 1, C]
            gates = _linear(self.gate, hidden)
            shares = gates.view(*gates.shape[:2], -1, criteria.shape[-1]).softmax(-1)  # [B, Q, K, C]
            rewards = (shares * criteria).sum(-1)
            single: Tensor = rewards[:, 0] if states.shape[1] == 1 else rewards.diagonal(dim1=1, dim2=2)
            return single


def _empty_linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """Make a linear layer whose weights `RewardHead.reset` or an export gives."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)  # type: ignore[no-untyped-call]
    return layer


def _linear(layer: Any, states: Tensor) -> Tensor:
    """Apply the weight and bias of a layer in float32, whatever their precision."""
    return F.linear(states, layer.weight.float(), None if layer.bias is None else layer.bias.float())
