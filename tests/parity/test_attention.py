"""What query tokens attend to, against the attention maps that transformers gives for one whole sequence."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from descore.evaluation.query_attention import SOURCES, query_attention
from descore.heads.settings import HeadSettings
from descore.model.reward_model import RewardModel
from descore.model.shared_prefix import SHARED_PREFIX
from descore.types import Thought
from tests.conftest import Build
from tests.helpers.examples import make_prefixes, make_thought
from tests.parity.plain import inputs_of, use_stock_attention


def test_query_attention_is_that_of_the_maps_of_a_whole_sequence(model: RewardModel) -> None:
    prefixes = make_prefixes(model, 2)
    thoughts = [[make_thought(5), Thought()], [make_thought(9, seed=1)]]
    attended = query_attention(model, model.processor.pack(prefixes, thoughts))
    found = torch.stack([one.shares for one in attended])
    assert found.shape == (3, model.base.config.get_text_config().num_hidden_layers, len(SOURCES))
    assert torch.allclose(found.sum(-1), torch.ones(found.shape[:2]))

    plain = deepcopy(model)
    use_stock_attention(plain)
    plain.base.config.get_text_config()._attn_implementation = "eager"
    cases = [(prefix, thought) for prefix, own in zip(prefixes, thoughts, strict=True) for thought in own]
    for one, (prefix, thought) in zip(attended, cases, strict=True):
        inputs = inputs_of(plain, prefix, [*thought.token_ids, *model.processor.query_ids])
        with torch.no_grad():
            maps = plain.base.model(**inputs, output_attentions=True).attentions
        video = inputs["mm_token_type_ids"][0] == 2
        place = torch.arange(len(video))
        text = len(prefix.input_ids)
        sources = [video, ~video & (place < text), (place >= text) & (place < len(video) - 1), place == len(video) - 1]
        tokens = torch.stack([weights[0, :, -1, video].mean(0) for weights in maps]).mean(0)
        torch.testing.assert_close(one.video.flatten(), tokens, atol=1e-5, rtol=0)
        time, rows, columns = prefix.grids[0].tolist()
        assert one.video.shape == (time, rows // 2, columns // 2)
        for layer, weights in zip(one.shares, maps, strict=True):
            expected = [weights[0, :, -1, source].sum(-1).mean() for source in sources]
            assert torch.allclose(layer, torch.stack(expected), atol=1e-5)
    assert found[1, :, 2].abs().max() == 0  # no thought, no attention to it


def test_a_query_token_sees_none_that_follows_it(build: Build) -> None:
    model = build(reward_names=("motion", "look"), head=HeadSettings(query="each"))
    whole = model.processor.pack(make_prefixes(model, 1), [[make_thought(5)]])
    first, second = whole.query_index.split(1, dim=1)
    other = whole.input_ids.clone()
    other[0, second] = 7
    found, changed = (
        query_attention(model, replace(whole, input_ids=ids, query_index=first))[0].shares
        for ids in (whole.input_ids, other)
    )
    torch.testing.assert_close(found, changed, atol=1e-6, rtol=0)


def test_the_model_is_as_before(qwen3: RewardModel) -> None:
    branches = qwen3.processor.pack(make_prefixes(qwen3, 1), [[make_thought(5)]])
    with torch.no_grad():
        before = qwen3(branches).rewards
        query_attention(qwen3, branches)
        assert torch.equal(qwen3(branches).rewards, before)
    assert qwen3.base.config.get_text_config()._attn_implementation == SHARED_PREFIX
