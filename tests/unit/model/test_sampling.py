from math import inf

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.thinking.think import think
from descore.types import Branches, Group
from tests.helpers.examples import make_prefixes

PROBABILITIES = [0.5, 0.25, 0.15, 0.1]
NAMES = ("a", "b", "c")
NARROW = {
    "top_k": Sampling(num_thoughts=5, temperature=1.0, top_k=5),
    "top_p": Sampling(num_thoughts=5, temperature=1.0, top_p=0.8),
    "both": Sampling(num_thoughts=5, temperature=1.5, top_k=6, top_p=0.9),
}


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def brief(request: pytest.FixtureRequest, build) -> RewardModel:
    """A model that knows ten words, the end of turn among them: thoughts of all lengths up to the limit."""
    model = build(request.param, max_thought_tokens=12)
    model.processor.forbidden_ids = sorted(set(range(320)) - {*range(100, 109), model.processor.end_id})
    return model


def warped(sampling: Sampling, sampled: int | None = None, probabilities: list[float] = PROBABILITIES) -> list[float]:
    """Probabilities of the distribution that is sampled from; their order must not matter."""
    logits = torch.tensor([probabilities, probabilities[::-1]]).log()
    tokens = None if sampled is None else torch.tensor([sampled, len(probabilities) - 1 - sampled])
    rows = sampling.warp(logits, tokens).softmax(-1)
    assert_close(rows[1].flip(0), rows[0])
    return rows[0].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.0}, PROBABILITIES),
        ({"top_k": 4, "top_p": 1.0}, PROBABILITIES),
        ({"top_k": 9}, PROBABILITIES),
        # The squares, 0.25, 0.0625, 0.0225 and 0.01, over their sum of 0.345.
        ({"temperature": 0.5}, [50 / 69, 12.5 / 69, 4.5 / 69, 2 / 69]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        # 0.5 alone reaches 0.5; 0.6 and 0.75 take a second token, 0.76 a third.
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.75}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.76}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        ({"top_p": 1e-6}, [1, 0, 0, 0]),
        # The other way round top-p would keep two, and top-k both of them.
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
        # Without the temperature top-p would keep two.
        ({"temperature": 0.5, "top_p": 0.7}, [1, 0, 0, 0]),
    ],
)
def test_warp_by_hand(options, expected):
    assert warped(Sampling(**{"temperature": 1.0} | options)) == pytest.approx(expected, abs=1e-6)


def test_what_is_left_stays_in_proportion_and_what_is_dropped_has_no_probability():
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0]])
    assert Sampling(top_k=2).warp(logits).tolist() == [[0.5, -inf, 2.0, -inf]]
    assert logits.tolist() == [[0.5, -1.0, 2.0, 0.0]], "the logits that were given are kept"


def test_a_token_that_was_sampled_keeps_its_probability_when_it_falls_out_of_the_set():
    """Token 3, of 0.1, beside the one, two or three tokens that are kept; nothing changes for a token of the set."""
    for options, kept in (({"top_k": 1}, 1), ({"top_p": 0.6}, 2), ({"top_k": 3, "top_p": 0.9}, 3)):
        sampling = Sampling(temperature=1.0, **options)
        total = sum(PROBABILITIES[:kept]) + 0.1
        expected = [p / total if i in (*range(kept), 3) else 0 for i, p in enumerate(PROBABILITIES)]
        assert warped(sampling, sampled=3) == pytest.approx(expected, abs=1e-6)
        assert warped(sampling, sampled=0) == warped(sampling)


def test_the_gradient_is_that_of_the_set():
    """log p of the first of the two tokens that are kept: 1 - 2/3 at itself, -1/3 at the other, 0 beyond."""
    logits = torch.tensor([PROBABILITIES]).log().requires_grad_()
    Sampling(temperature=1.0, top_p=0.6).warp(logits, torch.tensor([0])).log_softmax(-1)[0, 0].backward()
    assert logits.grad is not None
    assert_close(logits.grad, torch.tensor([[1 / 3, -1 / 3, 0, 0]]))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 400])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
def test_warp_is_that_of_transformers(temperature, top_k, top_p):
    """In the order of its own generate; some tokens of the vocabulary are forbidden, thus -inf."""
    logits = 3 * torch.randn(64, 320, generator=torch.Generator().manual_seed(0))
    logits[:, 300:] = -inf
    warpers = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k or 320), TopPLogitsWarper(top_p)]
    theirs = LogitsProcessorList(warpers)(torch.zeros(64, 1, dtype=torch.int64), logits.clone())
    ours = Sampling(temperature=temperature, top_k=top_k, top_p=top_p).warp(logits)
    assert_close(ours, theirs, atol=0, rtol=0)


def test_tokens_that_share_the_last_rank_all_stay_as_in_transformers():
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    ours, theirs = Sampling(top_k=2).warp(logits), TopKLogitsWarper(2)(torch.zeros(1, 1), logits)
    assert ours.tolist() == theirs.tolist() == [[2.0, 1.0, 1.0, -inf]]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_thoughts": 0}, "num_thoughts is 0; expected at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0; expected at least 1, or None"),
        ({"temperature": -0.1}, r"temperature is -0\.1; expected 0 \(greedy\) or above"),
        ({"top_p": 0.0}, r"top_p is 0\.0; expected above 0 and up to 1"),
        ({"top_p": 1.5}, r"top_p is 1\.5; expected above 0 and up to 1"),
        ({"top_p": float("nan")}, "top_p is nan; expected above 0 and up to 1"),
        ({"top_k": -1}, "top_k is -1; expected 0, which allows all tokens, or above"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Sampling(**options)


def videos_of(model: RewardModel) -> Branches:
    return model.processor.pack(make_prefixes(model, 3), [()] * 3)


def packed_logits(model: RewardModel, groups: list[Group]) -> tuple[Branches, Tensor]:
    """The thoughts in one row, and the model's own logits where each of their tokens is predicted."""
    branches = model.processor.pack(make_prefixes(model, 3), [group.thoughts for group in groups])
    with torch.no_grad():
        return branches, model.next_logits(model.hidden(branches)[branches.source_index])


@pytest.mark.parametrize("sampling", NARROW.values(), ids=NARROW)
def test_every_token_lies_in_the_set_that_was_sampled_from(brief, sampling):
    branches, logits = packed_logits(brief, think(brief, videos_of(brief), sampling, names=NAMES))
    allowed = sampling.warp(logits).isfinite()
    assert allowed.gather(1, branches.target_ids[:, None]).all()
    assert allowed.sum(1).max() < 10, "the set is smaller than the ten words"
    wide = Sampling(num_thoughts=5, temperature=sampling.temperature)
    branches, logits = packed_logits(brief, think(brief, videos_of(brief), wide, names=NAMES))
    outside = ~sampling.warp(logits).isfinite().gather(1, branches.target_ids[:, None])
    assert outside.any(), "without the set some tokens would lie beyond it"


@pytest.mark.parametrize("sampling", NARROW.values(), ids=NARROW)
def test_the_samplers_logprobs_are_those_of_the_packed_forward(brief, sampling):
    groups = think(brief, videos_of(brief), sampling, names=NAMES)
    thoughts = [thought for group in groups for thought in group.thoughts]
    assert {thought.closed for thought in thoughts} == {True, False}, "some are cut at the limit, some are not"
    assert len({len(thought.token_ids) for thought in thoughts}) > 2, "their lengths differ"
    branches, _ = packed_logits(brief, groups)
    sampled = torch.cat([logprobs for group in groups for logprobs in group.logprobs])
    with torch.no_grad():
        same, other = (brief(branches, with_logprobs=True, sampling=how).logprobs for how in (sampling, None))
    assert_close(sampled, same, atol=1e-5, rtol=0)
    assert (other - sampled).abs().max() > 0.1, "the distribution without the set is another one"


def test_a_model_that_moved_gives_finite_logprobs_to_what_it_would_no_longer_say(brief):
    """The thoughts of a wide sampler, read by a narrow one: what falls out of its set counts, and has a gradient."""
    wide = think(brief, videos_of(brief), Sampling(num_thoughts=5, temperature=1.0), names=NAMES)
    branches, _ = packed_logits(brief, wide)
    logprobs = brief(branches, with_logprobs=True, sampling=Sampling(temperature=1.0, top_k=2)).logprobs
    assert logprobs.isfinite().all()
    (gradient,) = torch.autograd.grad(logprobs.sum(), brief.base.model.language_model.norm.weight)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


def test_thinking_about_what_was_seen_is_thinking_without_the_vision_tower(brief):
    videos, sampling = videos_of(brief), NARROW["both"]
    fresh = think(brief, videos, sampling, names=NAMES)
    looks = []
    hook = brief.base.model.visual.register_forward_hook(lambda *_: looks.append(1))
    with torch.no_grad():
        seen = brief.see(videos)
    assert looks == [1]
    again = think(brief, videos, sampling, names=NAMES, seen=seen)
    hook.remove()
    assert looks == [1], "it is not run once more"
    for one, other in zip(fresh, again, strict=True):
        assert one.thoughts == other.thoughts
        assert_close(one.rewards, other.rewards, atol=0, rtol=0)
        assert_close(one.logprobs, other.logprobs, atol=0, rtol=0)


def test_what_was_seen_is_what_is_thought_about(brief):
    """Another video's processor change the rewards: they are read, and in their places."""
    videos = brief.processor.pack(make_prefixes(brief, 2)[:1] * 2, [()] * 2)
    with torch.no_grad():
        seen = brief.see(videos)
    dark = [type(one)(torch.zeros_like(one.main), tuple(map(torch.zeros_like, one.deepstack))) for one in seen]
    first, second = think(brief, videos, seen=[seen[0], dark[1]])
    assert abs(first.rewards - second.rewards) > 1e-3
    assert_close(first.rewards, think(brief, videos, seen=seen)[0].rewards, atol=1e-5, rtol=0)
