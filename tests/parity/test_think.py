"""Thinking gives what a packed forward over the finished thoughts gives, and draws that depend on nothing else."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from descore.heads.settings import HeadSettings
from descore.inputs.processor import prefixes_of
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.model.thought_cache import ThoughtCache
from descore.thinking.graphs import GraphedStep
from descore.thinking.think import _Thinker, think
from descore.types import Branches, Group, Thought
from tests.helpers.examples import make_prefixes, make_thought
from tests.parity.plain import inputs_of, stock

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def brief(request: pytest.FixtureRequest, build) -> RewardModel:
    """A model that knows ten words, the end of turn among them: thoughts of all lengths up to the limit."""
    return with_few_words(build(request.param, max_thought_tokens=12))


def with_few_words(model: RewardModel) -> RewardModel:
    model.processor.forbidden_ids = sorted(set(range(320)) - {*range(100, 109), model.processor.end_id})
    return model


def videos_of(model: RewardModel, num: int = 3) -> Branches:
    return model.processor.pack(make_prefixes(model, num), [[Thought()]] * num)


def lengths_of(groups: list[Group]) -> list[int]:
    return [len(thought.token_ids) for group in groups for thought in group.thoughts]


def assert_same_groups(ours: list[Group], theirs: list[Group], atol: float = 1e-5) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.thoughts == other.thoughts
        assert one.texts == other.texts
        assert_close(one.rewards, other.rewards, atol=atol, rtol=0)
        assert_close(one.logprobs, other.logprobs, atol=atol, rtol=0)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(num_thoughts=5, temperature=1.0)], ids=["greedy", "sampled"])
def test_rewards_and_logprobs_are_those_of_the_packed_forward(brief, sampling):
    prefixes = make_prefixes(brief, 3)
    groups = think(brief, brief.processor.pack(prefixes, [[Thought()]] * 3), sampling, names=NAMES)
    branches = brief.processor.pack(prefixes, [group.thoughts for group in groups])
    forward = brief(branches, with_logprobs=True)
    assert_close(torch.cat([group.rewards for group in groups]), forward.rewards, atol=1e-5, rtol=0)
    found = torch.cat([logprobs for group in groups for logprobs in group.logprobs])
    assert_close(found, forward.logprobs, atol=1e-5, rtol=0)


def test_the_thoughts_of_these_tests_end_in_every_way(brief):
    """Unequal lengths, some cut at the limit and some closed: what the comparison above rests on."""
    groups = think(brief, videos_of(brief), Sampling(num_thoughts=5, temperature=1.0), names=NAMES)
    thoughts = [thought for group in groups for thought in group.thoughts]
    assert len(set(lengths_of(groups))) > 4
    assert all(thought.closed == (len(thought.token_ids) < 12) for thought in thoughts)
    assert {thought.closed for thought in thoughts} == {True, False}
    for group in groups:
        for thought, logprobs in zip(group.thoughts, group.logprobs, strict=True):
            assert len(logprobs) == len(thought.token_ids) + thought.closed


@pytest.mark.parametrize("query", ["shared", "each"])
def test_several_rewards_are_those_of_the_packed_forward(build, query):
    several = {"reward_names": ("motion", "look"), "head": HeadSettings(query=query)}
    model = with_few_words(build(max_thought_tokens=12, **several))
    prefixes = make_prefixes(model, 3)
    groups = think(model, videos_of(model), Sampling(num_thoughts=4, temperature=1.0), names=NAMES)
    forward = model(model.processor.pack(prefixes, [group.thoughts for group in groups]))
    assert forward.rewards.shape == (12, 2)
    assert_close(torch.cat([group.rewards for group in groups]), forward.rewards, atol=1e-5, rtol=0)


def test_logprobs_are_those_of_the_sampling_temperature(brief):
    groups = think(brief, videos_of(brief), Sampling(num_thoughts=3, temperature=0.5), names=NAMES)
    branches = brief.processor.pack(make_prefixes(brief, 3), [group.thoughts for group in groups])
    logits = brief.base.lm_head(brief.hidden(branches)[branches.source_index])
    allowed = sorted(set(range(320)) - set(brief.processor.forbidden_ids))
    expected = 2 * logits.gather(1, branches.target_ids[:, None])[:, 0] - (2 * logits[:, allowed]).logsumexp(-1)
    assert_close(torch.cat([one for group in groups for one in group.logprobs]), expected, atol=1e-5, rtol=0)


def test_a_long_thought_outgrows_the_first_block_of_the_cache(build):
    model = build(max_thought_tokens=70)
    model.processor.forbidden_ids = sorted(set(range(320)) - set(range(100, 109)))  # it never ends
    prefixes = make_prefixes(model, 2)
    groups = think(model, videos_of(model, 2), Sampling(num_thoughts=2, temperature=1.0))
    assert lengths_of(groups) == [70] * 4
    forward = model(model.processor.pack(prefixes, [group.thoughts for group in groups]))
    assert_close(torch.cat([group.rewards for group in groups]), forward.rewards, atol=1e-5, rtol=0)


def test_finished_thoughts_give_up_their_rows_and_it_changes_nothing(brief, monkeypatch):
    sizes, keep = [], ThoughtCache.keep

    def spy(self: ThoughtCache, videos: torch.Tensor, rows: torch.Tensor) -> None:
        sizes.append(len(rows))
        keep(self, videos, rows)

    monkeypatch.setattr(ThoughtCache, "keep", spy)
    sampling = Sampling(num_thoughts=8, max_tokens=24, temperature=1.0)
    compacted = think(brief, videos_of(brief), sampling, names=NAMES)
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 0.75 * 24
    monkeypatch.setattr(_Thinker, "_shrink", lambda self: None)
    assert_same_groups(compacted, think(brief, videos_of(brief), sampling, names=NAMES))


def test_draws_go_by_name_not_by_place_or_company(brief):
    prefixes, sampling = make_prefixes(brief, 3), Sampling(num_thoughts=4, temperature=1.0)

    def run(order: list[int], sampling: Sampling = sampling, names: str = "abc") -> list[Group]:
        packed = brief.processor.pack([prefixes[index] for index in order], [[Thought()]] * len(order))
        return think(brief, packed, sampling, names=[names[index] for index in order])

    groups = run([0, 1, 2])
    assert_same_groups(groups, run([2, 0, 1])[1:] + run([2]))
    fewer = run([1], Sampling(num_thoughts=2, temperature=1.0))[0]
    assert fewer.thoughts == groups[1].thoughts[:2]
    assert run([1], names="xyz")[0].thoughts != groups[1].thoughts
    assert run([1], Sampling(num_thoughts=4, temperature=1.0, seed=1))[0].thoughts != groups[1].thoughts
    assert len(set(groups[1].thoughts)) > 1, "thoughts of one video differ"


def test_the_state_of_torchs_own_generator_is_left_alone(brief):
    before = torch.random.get_rng_state()
    think(brief, videos_of(brief), Sampling(num_thoughts=2, temperature=1.0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sampling_follows_the_probabilities(build):
    """1,200 first tokens of one video against the model's own probabilities: each share within 4 standard errors."""
    model = with_few_words(build(max_thought_tokens=1))
    videos, num = videos_of(model, 1), 1200
    group = think(model, videos, Sampling(num_thoughts=num, temperature=1.0))[0]
    drawn = [thought.token_ids[0] if thought.token_ids else model.processor.end_id for thought in group.thoughts]
    prefixes = model.processor.pack(prefixes_of(videos), [()])
    expected = model.next_logits(model.hidden(prefixes)[-1:])[0].softmax(-1)
    found = torch.bincount(torch.tensor(drawn), minlength=320) / num
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / num).sqrt()).all()


def test_greedy_thoughts_are_those_of_transformers_generate(qwen3):
    """One plain sequence, transformers' own attention, cache and decoding."""
    model = deepcopy(qwen3)
    model.base.model.language_model.norm.weight.data.neg_()  # or it would repeat what it read last
    theirs = stock(model)
    for prefix in make_prefixes(model, 3):
        group = think(model, model.processor.pack([prefix], [[Thought()]]), Sampling(max_tokens=24))[0]
        inputs = inputs_of(theirs, prefix, [])
        suppressed = theirs.processor.forbidden_ids
        written = theirs.base.generate(**inputs, max_new_tokens=24, do_sample=False, suppress_tokens=suppressed)
        new = written[0, len(prefix.input_ids) :].tolist()
        assert [*group.thoughts[0].token_ids, *[model.processor.end_id] * group.thoughts[0].closed] == new
        assert len(set(new)) > 3, "a thought that says one thing only would show little"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forbidden_tokens_are_never_sampled(qwen3, temperature):
    """Even where the model would say nothing else."""
    model = deepcopy(qwen3)
    forbidden = model.processor.forbidden_ids

    def push(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor(forbidden), 100.0)

    model.base.lm_head.register_forward_hook(push)
    groups = think(model, videos_of(model), Sampling(num_thoughts=4, temperature=temperature))
    said = {token_id for group in groups for thought in group.thoughts for token_id in thought.token_ids}
    assert said
    assert not said & set(forbidden)
    assert all(logprobs.isfinite().all() for group in groups for logprobs in group.logprobs)


def test_a_draw_at_the_very_end_takes_a_token_that_has_probability(qwen3):
    """The largest draw there is, and last tokens without probability: the sum before them is reached, not passed."""
    thinker = _Thinker(
        qwen3, qwen3.step, qwen3.processor.pack(make_prefixes(qwen3, 1), [()]), Sampling(temperature=1.0), ["a"]
    )
    thinker.rows[0].noise.fill_(1 - 2**-24)
    for seed in range(50):
        logits = torch.randn(1, 320, generator=torch.Generator().manual_seed(seed))
        logits[:, 200:] = -torch.inf
        assert thinker._sample(logits.log_softmax(-1)).item() < 200


def test_each_video_passes_the_vision_tower_once_and_each_reward_costs_one_token(brief):
    videos, fed = videos_of(brief), []
    seen = []
    hooks = [
        brief.base.model.visual.register_forward_hook(lambda *_: seen.append(1)),
        brief.base.model.language_model.register_forward_hook(
            lambda _, __, kwargs, ___: fed.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        ),
    ]
    groups = think(brief, videos, Sampling(num_thoughts=3, temperature=1.0), names=NAMES)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 1
    assert fed == [sum(videos.layout.prefix_lengths)] + [1] * (max(lengths_of(groups)) + 1)


def test_branches_of_a_packed_batch_are_not_read(brief):
    prefixes = make_prefixes(brief, 3)
    full = brief.processor.pack(prefixes, [[make_thought(4)], [make_thought(2), Thought()], [Thought()]])
    assert_same_groups(think(brief, full), think(brief, videos_of(brief)), atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_eval_mode_meanwhile_and_as_it_was_after(qwen3, training):
    model = deepcopy(qwen3).train(training)
    modes = []
    model.base.model.language_model.register_forward_hook(lambda module, *_: modes.append(module.training))
    think(model, videos_of(model, 1), Sampling(max_tokens=2))
    assert modes
    assert not any(modes)
    assert model.training == training


def test_rewards_stay_float32_under_autocast(brief):
    with torch.autocast("cpu", torch.bfloat16):
        groups = think(brief, videos_of(brief), Sampling(num_thoughts=2))
        again = brief(brief.processor.pack(make_prefixes(brief, 3), [group.thoughts for group in groups]))
    assert {group.rewards.dtype for group in groups} == {torch.float32}
    assert_close(torch.cat([group.rewards for group in groups]), again.rewards, atol=0.03, rtol=0)


def test_another_number_of_names_than_of_videos_is_refused(qwen3):
    with pytest.raises(ValueError, match="got 2 names and 3 videos"):
        think(qwen3, videos_of(qwen3), names=["a", "b"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_thoughts": 0}, "num_thoughts is 0; expected at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0; expected at least 1"),
        ({"temperature": -1.0}, r"temperature is -1\.0; expected 0"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Sampling(**options)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(num_thoughts=5, temperature=1.0)], ids=["greedy", "sampled"])
def test_a_step_that_is_replayed_writes_what_steps_one_by_one_write(build, monkeypatch, sampling):
    """Beyond the 64 places that a slot starts with (greedy), and with fewer rows from thought to thought (sampled)."""
    model = with_few_words(build(max_thought_tokens=100))
    if sampling.temperature == 0:
        model.processor.forbidden_ids += [model.processor.end_id]
    expected = think(model, videos_of(model), sampling, names=NAMES)
    captured: list[int] = []

    def capture(run):
        captured.append(1)
        return run

    monkeypatch.setattr("descore.thinking.think.fastest_step", lambda model: nullcontext(GraphedStep(model, capture)))
    assert_same_groups(think(model, videos_of(model), sampling, names=NAMES), expected)
    assert sampling.temperature or lengths_of(expected) == [100] * 3
    assert 1 < len(captured) < 12
