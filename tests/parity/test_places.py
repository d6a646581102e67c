"""Where the head reads, and in what form: packed, plain, decoded and exported give the same, in every arrangement."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from descore import Scorer
from descore.evaluation.query_attention import SOURCES, query_attention
from descore.families import FAMILIES
from descore.heads.settings import HeadSettings
from descore.inputs.processor import prefixes_of
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.model.trainable import make_trainable
from descore.thinking.think import think
from descore.types import Thought
from descore.video.settings import VideoSettings
from tests.conftest import Build
from tests.helpers.examples import make_frames, make_prefixes, make_thought
from tests.helpers.small_families import write_family
from tests.parity.plain import stock
from tests.parity.test_packed import FOUR_VIDEOS, compare, packed, plainly
from tests.parity.test_think import with_few_words

NAMES = ("VQ", "MQ", "TA")
VIDEOALIGN = "Visual quality: {query:VQ}\nMotion: {query:MQ}\nThe prompt is {prompt}.\nAlignment: {query:TA}\n"
ARRANGEMENTS = {
    # Three queries in the prompt, a row of a linear head each.
    "videoalign": (VIDEOALIGN, HeadSettings(query="each"), NAMES),
    # One query at the end of the prompt, and hidden layers.
    "hpsv3": ("{prompt} {query}", HeadSettings(kind="mlp", hidden=(16, 4), bias=True), ("mu",)),
    # No query: the last token, and a linear head with bias.
    "videoscore": ("{prompt} {video}", HeadSettings(query="last", bias=True), NAMES),
    # Criteria that a gate mixes, read from the last token.
    "mj_video": ("{prompt}", HeadSettings(query="last", kind="gated", criteria=7, hidden=(16,)), NAMES),
    # A query token after every thought.
    "descore": ("{prompt}", HeadSettings(), ("overall",)),
}
PARTS = ("language", "vision", "merger", "head")


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def arranged(name: str, build: Build) -> RewardModel:
    """A model of one arrangement, to be read only."""
    return arrange(build, name)


def arrange(build: Build, name: str, **settings: object) -> RewardModel:
    template, head, names = ARRANGEMENTS[name]
    return build(template=template, head=head, reward_names=names, **settings)


def parts_of(model: RewardModel) -> tuple[str, ...]:
    return (*PARTS, "query") if model.processor.query_ids else PARTS


def test_packed_equals_plain_with_the_same_gradients(arranged: RewardModel) -> None:
    trained = deepcopy(arranged)
    make_trainable(trained, parts_of(trained))
    compare(trained, make_prefixes(arranged, 4), FOUR_VIDEOS)


@pytest.mark.parametrize("branches", [1, 2])
def test_branches_without_a_token_equal_plain(arranged: RewardModel, branches: int) -> None:
    trained = deepcopy(arranged)
    make_trainable(trained, parts_of(trained))
    thoughts = [[Thought()] * branches] * 3
    rewards, _ = packed(trained, make_prefixes(arranged, 3), thoughts)
    expected, _ = plainly(stock(trained), make_prefixes(arranged, 3), thoughts)
    assert_close(rewards, expected, atol=1e-5, rtol=1e-5)
    rewards.sum().backward()
    assert trained.head.weight.grad is not None


def test_a_thought_has_the_reward_of_the_packed_forward(build: Build, name: str) -> None:
    model = with_few_words(arrange(build, name, max_thought_tokens=12))
    prefixes = make_prefixes(model, 3)
    videos = model.processor.pack(prefixes, [[Thought()]] * 3)
    groups = think(model, videos, Sampling(num_thoughts=5, temperature=1.0), names=("a", "b", "c"))
    assert len({len(thought.token_ids) for group in groups for thought in group.thoughts}) > 3
    forward = model(model.processor.pack(prefixes, [group.thoughts for group in groups]), with_logprobs=True)
    assert_close(torch.cat([group.rewards for group in groups]), forward.rewards, atol=1e-5, rtol=0)
    found = torch.cat([logprobs for group in groups for logprobs in group.logprobs])
    assert_close(found, forward.logprobs, atol=1e-5, rtol=0)


def test_prefixes_come_back_from_a_packed_batch(arranged: RewardModel) -> None:
    prefixes = make_prefixes(arranged, 4)
    for one, other in zip(prefixes_of(arranged.processor.pack(prefixes, FOUR_VIDEOS)), prefixes, strict=True):
        assert one.query_index == other.query_index
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.position_ids, other.position_ids)


@pytest.mark.parametrize("weights", ["merged", "adapter"])
def test_an_export_scores_as_the_model_does(
    arranged: RewardModel, tmp_path: Path, clips: list[str], weights: str
) -> None:
    trained = deepcopy(arranged)
    make_trainable(trained, parts_of(trained), lora_parts=("language",), lora_rank=2, lora_alpha=4)
    with torch.no_grad():
        for parameter in (one for one in trained.parameters() if one.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    trained.eval().save_pretrained(str(tmp_path / "export"), weights=weights)  # type: ignore[arg-type]
    prefix = trained.processor.prefix("a cat", trained.processor.video_reader(clips[0]))
    expected, _ = packed(trained, [prefix], [[Thought()]])
    loaded = RewardModel.from_pretrained(str(tmp_path / "export"))
    assert loaded.settings == trained.settings
    assert_close(packed(loaded, [prefix], [[Thought()]])[0], expected, atol=1e-5, rtol=0)
    (score,) = Scorer(str(tmp_path / "export"), thoughts=False, device="cpu").score([clips[0]], "a cat")
    assert score.error is None
    assert score.reward == pytest.approx(expected.sum().item(), abs=1e-4)


def test_attention_of_the_states_that_the_head_reads(arranged: RewardModel) -> None:
    thoughts = [[make_thought(5), Thought()], [make_thought(9, seed=1)]]
    found = query_attention(arranged, arranged.processor.pack(make_prefixes(arranged, 2), thoughts))
    shares = torch.stack([one.shares for one in found])
    assert_close(shares.sum(-1), torch.ones(shares.shape[:2]))
    assert (shares[..., SOURCES.index("query")] > 0).all()
    unread = arranged.processor.template.queries
    assert bool(shares[..., SOURCES.index("thought")].abs().max() == 0) == bool(unread)


def test_only_the_queries_after_the_prompt_depend_on_it(build: Build) -> None:
    """VideoAlign's visual quality and motion stand before the prompt; no thought moves any of the three."""
    model = arrange(build, "videoalign")
    prefixes = [model.processor.prefix(prompt, make_frames()) for prompt in ("a red circle", "two words")]
    thoughts = [[Thought(), make_thought(7)]] * 2
    rewards = packed(model, prefixes, thoughts)[0].view(2, 2, 3)
    assert_close(rewards[0, :, :2], rewards[1, :, :2], atol=1e-6, rtol=0)
    assert (rewards[0, :, 2] - rewards[1, :, 2]).abs().min() > 1e-4
    assert torch.equal(rewards[:, 0], rewards[:, 1])


def test_queries_in_the_prefix_leave_branches_without_tokens(build: Build) -> None:
    """The reward of a video is computed once, with its prefix, however many branches there are."""
    model = arrange(build, "videoalign")
    branches = model.processor.pack(make_prefixes(model, 2), [[Thought()] * 8] * 2)
    assert branches.layout.branch_lengths == ((0,) * 8,) * 2
    assert branches.layout.num_tokens == sum(branches.layout.prefix_lengths)
    ids = branches.input_ids[0][branches.query_index]
    assert ids.tolist() == [model.processor.query_ids] * 16


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", ["{prompt} {query}", "{prompt} {video} is it?"])
def test_every_family_reads_in_every_place(family: str, place: str, tmp_path: Path) -> None:
    write_family(tmp_path / "backbone", family)
    video = VideoSettings(min_pixels=256, max_pixels=1024, max_frames=6)
    head = HeadSettings(query="shared" if "query" in place else "last")
    model = RewardModel.create(ModelSettings(str(tmp_path / "backbone"), place, video=video, head=head)).eval()
    size = model.processor.video_reader.size or (32, 48)
    prefixes = [model.processor.prefix(text, make_frames(4, *size, seed=len(text))) for text in ("it", "<video> it")]
    thoughts = [[Thought(), make_thought(3), Thought()], [Thought()]]
    expected = plainly(stock(model), prefixes, thoughts)
    for value, reference in zip(packed(model, prefixes, thoughts), expected, strict=True):
        assert_close(value, reference, atol=1e-5, rtol=1e-5)
