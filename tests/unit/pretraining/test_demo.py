"""What both stages changed, as one adapter: exact where it is of low rank, refused where it is not."""

from __future__ import annotations

import pytest
import torch

from descore.model.reward_model import RewardModel
from pretraining.demo import as_adapter, factor
from pretraining.recipe import settings_of


def test_factors_of_a_change_give_it_back() -> None:
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(40, 3, generator=generator) @ torch.randn(3, 30, generator=generator)
    first, second = factor(change, rank=3)
    assert first.shape == (3, 30)
    assert second.shape == (40, 3)
    torch.testing.assert_close(second @ first, change, atol=1e-5, rtol=1e-5)


def test_a_change_of_a_higher_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 1 misses"):
        factor(torch.eye(4), rank=1)


def trained() -> RewardModel:
    return RewardModel.create(settings_of("tiny")).eval()


def test_an_adapter_computes_what_the_trained_model_computes() -> None:
    model = trained()
    generator = torch.Generator().manual_seed(0)
    layer = model.base.get_submodule("model.language_model.layers.0.self_attn.q_proj")
    with torch.no_grad():
        out, size = layer.weight.shape
        layer.weight += torch.randn(out, 4, generator=generator) @ torch.randn(4, size, generator=generator) / 100
        model.head.weight += 1.0
    found = as_adapter(model)
    adapted = found.base.get_submodule("model.language_model.layers.0.self_attn.q_proj")
    torch.testing.assert_close(adapted.get_delta_weight("default") + adapted.weight, layer.weight, atol=1e-5, rtol=0)
    assert torch.equal(found.head.weight, model.head.weight)


def test_a_change_that_no_adapter_holds_is_refused() -> None:
    model = trained()
    with torch.no_grad():
        model.base.get_submodule("model.language_model.norm").weight += 0.1
    with pytest.raises(ValueError, match=r"norm\.weight has changed"):
        as_adapter(model)
