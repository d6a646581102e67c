"""The packed forward gives what the plain way gives: rewards, log-probabilities and gradients."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from descore.heads.settings import HeadSettings
from descore.model.reward_model import RewardModel
from descore.model.trainable import make_trainable
from descore.types import Prefix, Thought
from tests.helpers.examples import make_prefixes, make_thought
from tests.parity.plain import plain_forward, stock

EMPTY = Thought()
ONE = [[make_thought(7, seed=1)]]
ONE_EMPTY = [[EMPTY]]
ENDS_AT_ONCE = [[Thought((), closed=True), make_thought(2)]]
THREE = [[make_thought(7, seed=1), EMPTY, make_thought(3, seed=2, closed=False)]]
FOUR_VIDEOS = [
    [make_thought(9, seed=3, closed=False)],
    [make_thought(1, seed=4), EMPTY],
    [EMPTY],
    [make_thought(4, seed=5), make_thought(11, seed=6), make_thought(6, seed=7, closed=False)],
]
LAYOUTS = {
    "one": ONE,
    "one_empty": ONE_EMPTY,
    "ends_at_once": ENDS_AT_ONCE,
    "three": THREE,
    "four_videos": FOUR_VIDEOS,
}
TRAINED = ("language", "vision", "merger", "query", "head")


def packed(model: RewardModel, prefixes: list[Prefix], thoughts: list[list[Thought]]) -> tuple[Tensor, Tensor]:
    forward = model(model.processor.pack(prefixes, thoughts), with_logprobs=True)
    return forward.rewards, forward.logprobs


def plainly(model: RewardModel, prefixes: list[Prefix], thoughts: list[list[Thought]]) -> tuple[Tensor, Tensor]:
    pairs = [(prefix, thought) for prefix, row in zip(prefixes, thoughts, strict=True) for thought in row]
    rewards, logprobs = zip(*(plain_forward(model, *pair) for pair in pairs), strict=True)
    return torch.stack(rewards), torch.cat(logprobs)


def loss(rewards: Tensor, logprobs: Tensor) -> Tensor:
    """Weigh every value differently, so that no two can be swapped."""
    return sum((value.flatten() * torch.linspace(1, 2, value.numel())).sum() for value in (rewards, logprobs))


def assert_same_gradients(ours: RewardModel, theirs: RewardModel) -> None:
    names = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert names == [name for name, parameter in theirs.named_parameters() if parameter.requires_grad]
    for name in names:
        found, expected = (model.get_parameter(name).grad for model in (ours, theirs))
        assert expected.norm() > 0, name
        # The bias of keys changes no attention: its gradient is noise, which the absolute bound is for.
        assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-7, name


def compare(ours: RewardModel, prefixes: list[Prefix], thoughts: list[list[Thought]]) -> None:
    theirs = stock(ours)
    values, expected = packed(ours, prefixes, thoughts), plainly(theirs, prefixes, thoughts)
    for value, reference in zip(values, expected, strict=True):
        assert_close(value, reference, atol=1e-5, rtol=1e-5)
    loss(*values).backward()
    loss(*expected).backward()
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("thoughts", LAYOUTS.values(), ids=LAYOUTS)
def test_packed_equals_plain(model, thoughts):
    trained = deepcopy(model)
    make_trainable(trained, TRAINED)
    compare(trained, make_prefixes(model, len(thoughts)), thoughts)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("lora", [(), ("language",), ("language", "vision", "merger")], ids=["full", "language", "all"])
def test_packed_equals_plain_in_training(model, lora, checkpointing):
    trained = deepcopy(model).train()
    make_trainable(trained, TRAINED, lora_parts=lora, lora_rank=4, lora_alpha=8)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:  # starts at zero, which would leave lora_A without a gradient
            torch.nn.init.normal_(parameter, std=0.05)
    if checkpointing:
        trained.base.gradient_checkpointing_enable({"use_reentrant": False})
    compare(trained, make_prefixes(model, 4), FOUR_VIDEOS)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("query", ["shared", "each"])
def test_packed_equals_plain_with_several_rewards(build, family, query):
    several = build(family, reward_names=("motion", "look", "text"), head=HeadSettings(query=query))
    make_trainable(several, TRAINED)
    compare(several, make_prefixes(several, 4), FOUR_VIDEOS)
    rewards, _ = packed(several, make_prefixes(several, 1), THREE)
    assert rewards.shape == (3, 3)


def test_a_batch_scores_as_its_videos_do_alone(model):
    prefixes = make_prefixes(model, 4)
    alone = [packed(model, [prefix], [row])[0] for prefix, row in zip(prefixes, FOUR_VIDEOS, strict=True)]
    assert_close(packed(model, prefixes, FOUR_VIDEOS)[0], torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("other", [make_thought(7, seed=9), make_thought(12, seed=9)], ids=["as_long", "longer"])
def test_siblings_do_not_see_each_other(model, other):
    prefixes = make_prefixes(model, 2)
    rows = [[make_thought(7, seed=1), make_thought(5, seed=2), EMPTY], [make_thought(3, seed=3)]]
    changed = [[rows[0][0], other, EMPTY], rows[1]]
    before, after = (packed(model, prefixes, thoughts)[0][:, 0] for thoughts in (rows, changed))
    assert abs(after[1] - before[1]) > 1e-3, "the thought that changed is scored anew"
    kept = [0, 2, 3]
    assert_close(after[kept], before[kept], atol=1e-6, rtol=0)


def test_a_thought_and_a_video_change_the_reward(model):
    """What the comparisons above rest on: the tiny backbone listens to all of its input."""
    first, second, _ = make_prefixes(model, 3)
    rewards = torch.cat([packed(model, [prefix], ONE)[0] for prefix in (first, second)])
    empty, _ = packed(model, [first], ONE_EMPTY)
    assert abs(rewards[0] - rewards[1]) > 1e-3
    assert abs(rewards[0] - empty[0]) > 1e-3


def test_lm_head_runs_at_the_thoughts_only_and_only_when_asked(model):
    branches = model.processor.pack(make_prefixes(model, 4), FOUR_VIDEOS)
    num_rows = []
    hook = model.base.lm_head.register_forward_hook(lambda _, inputs, output: num_rows.append(len(inputs[0])))
    assert len(model(branches).logprobs) == 0
    assert num_rows == []
    model(branches, with_logprobs=True)
    hook.remove()
    assert num_rows == [9 + 2 + 5 + 12 + 6]  # tokens of the thoughts, and the end of those that are closed


def test_every_video_passes_the_vision_tower_once(model):
    calls = []
    hook = model.base.model.visual.register_forward_hook(lambda *_: calls.append(1))
    model(model.processor.pack(make_prefixes(model, 4), FOUR_VIDEOS), with_logprobs=True)
    hook.remove()
    assert len(calls) == 1


def test_rewards_stay_float32_under_autocast(model):
    branches = model.processor.pack(make_prefixes(model, 4), FOUR_VIDEOS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model(branches, with_logprobs=True)
        hidden = model.hidden(branches)
    assert low.rewards.dtype == low.logprobs.dtype == torch.float32
    # The head itself rounds nothing: the float32 product of the states it is given.
    assert torch.equal(low.rewards, (hidden[branches.query_index].float() * model.head.weight).sum(-1))
    assert_close(low.rewards, model(branches).rewards, atol=0.05, rtol=0)


def test_forbidden_tokens_have_no_probability(model):
    logprobs = model.next_logits(torch.randn(5, 64, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    assert logprobs[:, model.processor.forbidden_ids].isneginf().all()
    assert_close(logprobs.exp().sum(-1), torch.ones(5))


def test_dropout_in_the_attention_is_refused(build):
    dropping = build().train()
    for layer in dropping.base.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"attention dropout is 0\.1; expected 0"):
        dropping(dropping.processor.pack(make_prefixes(dropping, 1), ONE))
