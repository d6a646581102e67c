"""What trains is what was asked for, in full or by LoRA, and nothing else moves."""

import pytest
import torch

from descore.heads.settings import HeadSettings
from descore.model.reward_model import RewardModel
from descore.model.trainable import PARTS, make_trainable, part_of, trainable
from tests.helpers.examples import make_prefixes, make_thought

VISUAL = "network.model.visual."


def step(model: RewardModel, times: int = 2) -> None:
    """Two steps, since LoRA's first one moves one of its two matrices only."""
    optimizer = torch.optim.SGD([parameter for group in trainable(model).values() for parameter in group], lr=0.5)
    branches = model.processor.pack(make_prefixes(model, 2), [[make_thought(4)]] * 2)
    for _ in range(times):
        optimizer.zero_grad()
        forward = model(branches, with_logprobs=True)
        (forward.rewards.sum() - forward.logprobs.mean()).backward()
        optimizer.step()


def plain_weights(model: RewardModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved_parts(model: RewardModel) -> set[str]:
    before = plain_weights(model)
    step(model)
    return {part_of(name) for name, value in plain_weights(model).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("head.weight", "head"),
        ("network.lm_head.weight", "language"),
        ("network.model.language_model.embed_tokens.weight", "embedding"),
        ("network.base_model.model.model.language_model.embed_tokens.token_adapter.base_layer.weight", "embedding"),
        ("network.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta.default", "query"),
        ("network.model.language_model.layers.0.self_attn.q_norm.weight", "language"),
        (VISUAL + "blocks.0.attn.qkv.weight", "vision"),
        (VISUAL + "merger.linear_fc1.weight", "merger"),
        (VISUAL + "deepstack_merger_list.0.norm.weight", "merger"),
    ],
)
def test_every_parameter_has_its_part(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("parts", [("head",), ("merger", "head"), ("language",), ("vision", "query"), ("embedding",)])
def test_only_the_parts_that_were_asked_for_move(model, build, parts):
    fresh = build(model.base.config.model_type)
    make_trainable(fresh, parts)
    assert set(trainable(fresh)) == set(parts)
    assert moved_parts(fresh) == set(parts)


def test_the_parts_hold_every_parameter_once(model, build):
    fresh = build(model.base.config.model_type)
    make_trainable(fresh, [part for part in PARTS if part != "query"])
    found = [id(parameter) for group in trainable(fresh).values() for parameter in group]
    assert sorted(found) == sorted(id(parameter) for parameter in fresh.parameters())


@pytest.mark.parametrize("lora_parts", [(), ("language",)], ids=["full", "lora"])
@pytest.mark.parametrize("query", ["shared", "each"])
def test_of_the_embedding_only_the_query_rows_move(build, lora_parts, query):
    model = build(reward_names=("motion", "look"), head=HeadSettings(query=query))
    embedding = model.base.get_input_embeddings()
    before = embedding.weight.detach().clone()
    parts = ("query", "head", *lora_parts)
    make_trainable(model, parts, lora_parts=lora_parts, lora_rank=2, lora_alpha=4)
    step(model)
    after = model.base.get_input_embeddings()(torch.arange(320))
    changed = (after != before).any(1).nonzero()[:, 0].tolist()
    assert changed == model.processor.query_ids
    assert len(changed) == (1 if query == "shared" else 2)


def test_lora_trains_in_place_of_the_weights_it_adapts(model, build):
    fresh = build(model.base.config.model_type)
    layers = [name for name, layer in fresh.base.named_modules() if isinstance(layer, torch.nn.Linear)]
    language = [name for name in layers if "visual" not in name and name != "lm_head"]
    make_trainable(fresh, ("language", "merger", "head"), lora_parts=("language",), lora_rank=3, lora_alpha=6)
    names = [name for name, parameter in fresh.named_parameters() if parameter.requires_grad]
    adapted = sorted(name.split(".lora_A")[0].split("base_model.model.")[1] for name in names if ".lora_A" in name)
    assert adapted == sorted(language)
    assert all(part_of(name) in {"merger", "head"} for name in names if "lora_" not in name)
    assert {parameter.shape[0] for name, parameter in fresh.named_parameters() if "lora_A" in name} == {3}
    assert moved_parts(fresh) == {"language", "merger", "head"}


def test_a_new_adapter_and_a_new_query_change_no_reward(model, build):
    fresh = build(model.base.config.model_type)
    branches = fresh.processor.pack(make_prefixes(fresh, 2), [[make_thought(4)]] * 2)
    before = fresh(branches).rewards
    make_trainable(fresh, ("language", "query", "head"), lora_parts=("language",), lora_rank=2, lora_alpha=4)
    assert torch.equal(fresh(branches).rewards, before)


@pytest.mark.parametrize(
    ("parts", "lora", "reason"),
    [
        (("head", "lm_head"), {}, r"unknown parts lm_head; expected some of embedding, language"),
        (("query", "embedding"), {}, "train one of query and embedding"),
        (
            ("head",),
            {"lora_parts": ("language",), "lora_rank": 4, "lora_alpha": 8},
            "LoRA is asked for on language",
        ),
        (("query",), {"lora_parts": ("query",), "lora_rank": 4, "lora_alpha": 8}, "LoRA is asked for on query"),
        (("language",), {"lora_parts": ("language",), "lora_alpha": 8}, "lora_rank is 0 and lora_alpha 8; expected"),
        (("language",), {"lora_parts": ("language",), "lora_rank": 8}, "lora_rank is 8 and lora_alpha 0; expected"),
    ],
)
def test_what_cannot_train_is_refused(build, parts, lora, reason):
    model = build()
    with pytest.raises(ValueError, match=reason):
        make_trainable(model, parts, **lora)
    assert all(parameter.requires_grad for parameter in model.parameters()), "a refusal changes nothing"
