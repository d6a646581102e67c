"""Linear attention over packed rows in double precision: what float32 leaves of a difference is rounding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5 import modeling_qwen3_5

from descore.families.delta_net import ForkingDeltaNet
from descore.types import Layout

PREFIX, BRANCHES = 150, (70, 1, 90)  # a chunk of transformers' sums has 64 tokens


class _InDouble(SimpleNamespace):
    """torch for transformers' module, in which what is to be float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
def layer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    config = Qwen3_5TextConfig(
        hidden_size=64,
        linear_key_head_dim=8,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )
    torch.manual_seed(0)
    found = ForkingDeltaNet(config, layer_idx=0)
    if request.param is torch.float64:
        monkeypatch.setattr(modeling_qwen3_5, "torch", _InDouble())
        monkeypatch.setattr(Tensor, "float", Tensor.double)
    return found.to(request.param)


def test_gradients_of_a_forked_state_are_those_of_whole_sequences(layer: nn.Module) -> None:
    """In float32 those of A_log and dt_bias differ by 4e-5 of their norm, in float64 by 4e-13."""
    dtype = next(layer.parameters()).dtype
    hidden = torch.randn(1, PREFIX + sum(BRANCHES), 64, dtype=dtype)
    weights = torch.randn_like(hidden)
    trunk, *branches = torch.split(hidden, [PREFIX, *BRANCHES], dim=1)
    packed = layer(hidden, layout=Layout((PREFIX,), (BRANCHES,)))
    whole = [layer(torch.cat([trunk, branch], dim=1)) for branch in branches]
    single = torch.cat([whole[0][:, :PREFIX], *(one[:, PREFIX:] for one in whole)], dim=1)
    limits = (1e-5, 1e-3) if dtype is torch.float32 else (1e-13, 1e-11)
    assert_close(packed, single, atol=limits[0], rtol=0)
    for (name, _), ours, theirs in zip(
        layer.named_parameters(), gradients(layer, packed, weights), gradients(layer, single, weights), strict=True
    ):
        assert (ours - theirs).norm() <= limits[1] * theirs.norm(), name


def gradients(layer: nn.Module, outputs: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((outputs * weights).sum(), list(layer.parameters()))
