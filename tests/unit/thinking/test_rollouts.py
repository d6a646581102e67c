"""Rewards land on the thoughts that earned them, all the way to the loss; and groups depend on nothing else.

The thoughts of most tests are scripted: thought i about a video is written by what the model would read of that video,
its prompt and its pixels. So the text and the tokens of a thought say whose it is, and nothing has to be believed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from math import exp, inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from descore.inputs.processor import prefixes_of
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.modules.step_metrics import Means, count_rollouts
from descore.objectives.algorithms import Algorithm
from descore.objectives.dual import DualObjective
from descore.rewards import Rubric
from descore.thinking.rollouts import Rollouts, RolloutSettings, roll_out
from descore.types import Branches, Frames, Group, Pair, PairBatch, Prefix, Side, Thought
from tests.helpers.examples import make_frames

NUM_THOUGHTS = 4
SAMPLING = Sampling(num_thoughts=NUM_THOUGHTS, temperature=1.0)
PREFERENCES = [(1.0,), (-1.0,), (0.0,)]


# Rollout rewards by pair and side: 0, 1, 2, 5 in some order, with the mean 2, times a scale that no other video has.
REWARDS = {
    (0, "a"): [0, 1, 2, 5],
    (0, "b"): [20, 8, 4, 0],
    (1, "a"): [2, 0, 10, 4],
    (1, "b"): [3, 15, 0, 6],
    (2, "a"): [35, 14, 0, 7],
    (2, "b"): [6, 12, 30, 0],
}


# Reward minus the mean of its group, in the order of the videos: A of all pairs, then B.
ADVANTAGES = [
    [-2, -1, 0, 3],
    [-2, -4, 6, 0],
    [21, 0, -14, -7],
    [12, 0, -4, -8],
    [-3, 9, -6, 0],
    [-6, 0, 18, -12],
]


def merit(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    """The reward that the table has for the thought that this text belongs to."""
    pair, side, index = text.split()
    assert truth == annotated(int(pair), side), "a thought is graded by what is annotated of its own video"
    assert num_tokens == length_of(int(pair), side, int(index))
    return REWARDS[int(pair), side][int(index)]


def place(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    """A number that says whose text it is: 102 is thought 2 about A of pair 1, 112 that about B."""
    pair, side, index = text.split()
    return 100 * int(pair) + 10 * "ab".index(side) + int(index)


def merit_unless_it_failed(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    """Nan for thoughts 1 and 3 about A of pair 0, and for all about B of pair 2."""
    return nan if text in {"0 a 1", "0 a 3"} or text.startswith("2 b") else merit(text, truth, num_tokens)


def last_of_attempt(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    """Spread at once for pair 0, at the second attempt for A of pair 1, and never for the others."""
    pair, side, index, attempt = text.split()
    return float(pair == "0" or ((pair, side) == ("1", "a") and attempt == "2")) * int(index)


def always_one(text: str, truth: Mapping[str, Any] | None, num_tokens: int) -> float:
    return 1.0


def annotated(pair: int, side: str) -> dict[str, int | None]:
    return {"subject": pair, "dynamics": "ab".index(side), "camera": None, "environment": 2, "style": 0}


def length_of(pair: int, side: str, index: int) -> int:
    """1 to 4 tokens."""
    return 1 + (index + pair + 2 * "ab".index(side)) % 4


def tokens_of(pair: int, side: str, index: int) -> range:
    """Tokens that no other thought has."""
    start = 4 * (NUM_THOUGHTS * (2 * pair + "ab".index(side)) + index)
    return range(start, start + length_of(pair, side, index))


def frames_of(pair: int, side: str) -> Frames:
    """Sizes differ between pairs; A is black, B is white."""
    frames = make_frames(2, *[(32, 32), (32, 48), (48, 32)][pair])
    return replace(frames, pixels=torch.full_like(frames.pixels, 255 * "ab".index(side)))


def batch_of(model: RewardModel, numbers: Sequence[int] = (0, 1, 2)) -> PairBatch:
    """A batch of some of three pairs: one where A is preferred, one where B is, and a tie."""
    sides = [(number, side) for side in "ab" for number in numbers]
    return PairBatch(
        pairs=tuple(
            Pair(f"p{n}", f"video {n}", *(Side("", scores=annotated(n, side)) for side in "ab"), PREFERENCES[n])
            for n in numbers
        ),
        branches=model.processor.pack(
            [model.processor.prefix(f"video {number}", frames_of(number, side)) for number, side in sides],
            [[Thought((5, 6))]] * len(sides),
        ),
        thoughts=((Thought((5, 6)),),) * len(sides),
        preference=torch.tensor([PREFERENCES[number] for number in numbers]),
        mos=torch.full((2, len(numbers), 1), nan),
        masked=torch.zeros(len(numbers)).bool(),
    )


def who_is_read(model: RewardModel, videos: Branches) -> Iterator[tuple[int, str]]:
    """Pair and side of each video of a packed batch, by its prompt and its pixels."""
    for prefix in prefixes_of(videos):
        prompt = model.processor.tokenizer.decode(prefix.input_ids).partition("Judge it: video ")[2]
        yield int(prompt[0]), "b" if prefix.patches.float().mean() > 127 else "a"


def scripted(
    model: RewardModel, videos: Branches, sampling: Sampling, *, names: list[str], seen: object
) -> list[Group]:
    """What `think` gives, written by what is read; the token 7 had the log-probability -0.07 when it was sampled."""
    groups = []
    for pair, side in who_is_read(model, videos):
        tokens = [tokens_of(pair, side, index) for index in range(sampling.num_thoughts)]
        thoughts = tuple(Thought(tuple(ids)) for ids in tokens)
        texts = tuple(f"{pair} {side} {index}" for index in range(len(tokens)))
        old = tuple(-torch.tensor(list(ids)) / 100 for ids in tokens)
        groups.append(Group(thoughts, texts, old, torch.zeros(len(tokens), 1)))
    return groups


def settings(rule: str, **options: Any) -> RolloutSettings:
    """Differences to the mean as advantages, so that their size says whose they are."""
    rubric = Rubric({f"{__name__}.{rule}": 1.0, f"{__name__}.place": 0.0})
    return RolloutSettings(SAMPLING, rubric, **{"advantage": "dr_grpo"} | options)


@pytest.fixture
def rollouts(qwen3: RewardModel, monkeypatch: pytest.MonkeyPatch) -> Rollouts:
    monkeypatch.setattr("descore.thinking.rollouts.think", scripted)
    return roll_out(qwen3, batch_of(qwen3), settings("merit"))


def each_thought(rollouts: Rollouts) -> Iterator[tuple[int, int, tuple[int, str, int]]]:
    """Row and column of every thought, and whose it is by its tokens: pair, side and index."""
    for video, group in enumerate(rollouts.groups):
        for column, thought in enumerate(group.thoughts):
            number, index = divmod(thought.token_ids[0] // 4, NUM_THOUGHTS)
            yield video, column, (number // 2, "ab"[number % 2], index)


def test_every_thought_has_its_own_reward_advantage_and_tokens(rollouts):
    """What the published code gets wrong: it stores 2 of the 2n rewards of a pair where they belong."""
    owners = []
    for video, column, (pair, side, index) in each_thought(rollouts):
        owners.append((pair, side, index))
        assert rollouts.rewards[video, column] == REWARDS[pair, side][index]
        assert rollouts.parts[f"{__name__}.place"][video, column] == 100 * pair + 10 * "ab".index(side) + index
        assert rollouts.parts[f"{__name__}.merit"][video, column] == REWARDS[pair, side][index]
        assert rollouts.advantages[video, column] == REWARDS[pair, side][index] - sum(REWARDS[pair, side]) / 4
        tokens = list(tokens_of(pair, side, index))
        assert rollouts.mask[video, column].tolist() == [True] * len(tokens) + [False] * (4 - len(tokens))
        expected = [-token / 100 for token in tokens] + [0.0] * (4 - len(tokens))
        assert rollouts.old_logprobs[video, column].tolist() == pytest.approx(expected)
    assert owners == [(pair, side, index) for side in "ab" for pair in range(3) for index in range(NUM_THOUGHTS)]
    assert rollouts.advantages.tolist() == ADVANTAGES
    assert rollouts.rewards.shape == rollouts.advantages.shape == (6, NUM_THOUGHTS)
    assert rollouts.old_logprobs.shape == rollouts.mask.shape == (6, NUM_THOUGHTS, 4)


def test_the_groups_are_compared_as_the_setting_says(qwen3, monkeypatch):
    """grpo: the differences 2, 1, 0, 3 over the square root of 14/3, whatever the scale of a video."""
    monkeypatch.setattr("descore.thinking.rollouts.think", scripted)
    found = roll_out(qwen3, batch_of(qwen3), settings("merit", advantage="grpo")).advantages
    scales = torch.tensor([1, 2, 7, 4, 3, 6])[:, None]
    assert_close(found, torch.tensor(ADVANTAGES) / scales / (14 / 3) ** 0.5, atol=1e-5, rtol=0, check_dtype=False)


def slopes_by_token(model: RewardModel, rollouts: Rollouts, pieces: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Slopes of policy loss and calibration at the log-probability and the reward of every token.

    The model is a table: a token has the log-probability that it had when sampled, a thought the reward of its last
    token, so that the packed row alone says which value belongs where.
    """
    logprobs = (-torch.arange(320) / 100).requires_grad_()
    rewards = (torch.arange(320) / 50).sin().requires_grad_()
    objective = DualObjective(Algorithm(), max_tokens=4)
    shares = objective.shares(rollouts, sorted(pair for pairs in pieces for pair in pairs))
    for pairs in pieces:
        branches, _ = rollouts.pack(model.processor, pairs)
        last_tokens = branches.input_ids[0, branches.query_index[:, 0] - 1]
        now = rollouts.by_token(logprobs[branches.target_ids], pairs)
        scored = rewards[last_tokens].view(2 * len(pairs), NUM_THOUGHTS, 1)
        losses = objective(rollouts, pairs, shares, now, scored)
        (losses.policy + losses.calibration).backward()
    return logprobs.grad, rewards.grad


ORDERS = [[[0, 1, 2]], [[2, 0, 1]], [[2], [0, 1]], [[1], [2], [0]]]


@pytest.mark.parametrize("pieces", ORDERS, ids=str)
def test_a_token_is_pushed_by_the_advantage_of_its_own_thought(qwen3, rollouts, pieces):
    """On-policy the slope of the policy loss is -advantage / (60 tokens of all thoughts), in whichever micro-batch."""
    found, _ = slopes_by_token(qwen3, rollouts, pieces)
    expected = torch.zeros(320)
    for video, column, (pair, side, index) in each_thought(rollouts):
        expected[list(tokens_of(pair, side, index))] = -ADVANTAGES[video][column]
    num_tokens = sum(length_of(*owner) for _, _, owner in each_thought(rollouts))
    assert num_tokens == 60
    assert_close(found, expected / num_tokens, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pieces", ORDERS, ids=str)
def test_calibration_compares_thought_i_of_a_with_thought_i_of_b(qwen3, rollouts, pieces):
    """Slope at the preferred reward: -sigmoid(-(r_preferred - r_other)) / (2 decided pairs * 4); none at the tie."""
    _, found = slopes_by_token(qwen3, rollouts, pieces)
    rewards, expected = (torch.arange(320) / 50).sin(), torch.zeros(320)
    for pair, preferred, other in ((0, "a", "b"), (1, "b", "a")):
        for index in range(NUM_THOUGHTS):
            better, worse = (tokens_of(pair, side, index)[-1] for side in (preferred, other))
            slope = 1 / (1 + exp(rewards[better] - rewards[worse])) / 8
            expected[better], expected[worse] = -slope, slope
    assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_rollout_that_failed_leaves_its_group_and_its_tokens_count_for_nothing(qwen3, monkeypatch):
    """A of pair 0 is left with the rewards 0 and 2; no thought about B of pair 2 is left."""
    monkeypatch.setattr("descore.thinking.rollouts.think", scripted)
    rollouts = roll_out(qwen3, batch_of(qwen3), settings("merit_unless_it_failed"))
    assert_close(rollouts.rewards[0], torch.tensor([0, nan, 2, nan]).double(), equal_nan=True)
    assert rollouts.advantages[0].tolist() == [-1, 0, 1, 0]
    assert rollouts.advantages[5].tolist() == [0, 0, 0, 0]
    assert rollouts.advantages[1:5].tolist() == ADVANTAGES[1:5]
    failed = [*tokens_of(0, "a", 1), *tokens_of(0, "a", 3), *[t for i in range(4) for t in tokens_of(2, "b", i)]]
    found, scored = slopes_by_token(qwen3, rollouts, [[0, 1, 2]])
    assert not found[failed].any()
    num_left = 60 - len(failed)
    assert found[tokens_of(0, "a", 2)[0]].item() == pytest.approx(-1 / num_left)
    assert rollouts.mask.sum() == num_left
    assert scored[tokens_of(0, "a", 1)[-1]] != 0, "the head still learns from what was thought"


@pytest.mark.parametrize(("resample", "attempts"), [(0, 1), (1, 2), (2, 3), (9, 10)])
def test_groups_without_spread_are_sampled_again_and_only_those(qwen3, monkeypatch, resample, attempts):
    """Pair 0 has spread at once, A of pair 1 at the second attempt after the first, three videos never."""
    asked: list[dict[tuple[int, str], str]] = []

    def think(
        model: RewardModel, videos: Branches, sampling: Sampling, *, names: list[str], seen: object
    ) -> list[Group]:
        who = list(who_is_read(model, videos))
        asked.append(dict(zip(who, names, strict=True)))
        groups = scripted(model, videos, sampling, names=names, seen=seen)
        return [replace(g, texts=tuple(f"{text} {len(asked) - 1}" for text in g.texts)) for g in groups]

    monkeypatch.setattr("descore.thinking.rollouts.think", think)
    rubric = Rubric({f"{__name__}.last_of_attempt": 1.0})
    rollouts = roll_out(qwen3, batch_of(qwen3), RolloutSettings(SAMPLING, rubric, "dr_grpo", resample))
    everyone = [(pair, side) for side in "ab" for pair in range(3)]
    flat = [video for video in everyone if video[0] > 0]
    never = [video for video in flat if video != (1, "a")]
    assert [list(call) for call in asked] == [everyone, flat, flat, *[never] * 7][:attempts]
    assert len({name for call in asked for name in call.values()}) == sum(map(len, asked)), "each with its own draws"
    last = [0, min(resample, 2), resample, 0, resample, resample]
    for (pair, side), group, attempt in zip(everyone, rollouts.groups, last, strict=True):
        assert group.texts == tuple(f"{pair} {side} {index} {attempt}" for index in range(NUM_THOUGHTS))
    spread = [True, resample >= 2, False, True, False, False]
    assert rollouts.advantages.any(dim=1).tolist() == spread
    means = Means()
    count_rollouts(means, rollouts)
    assert means.compute()["rollout/no_spread_share"] == pytest.approx(spread.count(False) / 6)


@pytest.fixture(scope="module")
def brief(build) -> RewardModel:
    """A model that knows nine words and the end of turn."""
    model = build(max_thought_tokens=8)
    model.processor.forbidden_ids = sorted(set(range(320)) - {*range(100, 109), model.processor.end_id})
    return model


def thoughts_of(
    model: RewardModel, numbers: Sequence[int] = (0, 1, 2), **options: Any
) -> dict[str, tuple[Thought, ...]]:
    """Thoughts by pair and side; `key` and `look_once` go to `roll_out`, the rest are settings."""
    how = {name: options.pop(name) for name in ("key", "look_once") if name in options}
    given = RolloutSettings(SAMPLING, Rubric({f"{__name__}.always_one": 1.0}), **options)
    rollouts = roll_out(model, batch_of(model, numbers), given, **how)
    names = [f"{pair.id}{side}" for side in "ab" for pair in rollouts.pairs]
    return dict(zip(names, (group.thoughts for group in rollouts.groups), strict=True))


def test_outliers_of_the_batch_pull_nowhere(brief):
    """Among the advantages of a batch, those beyond one standard deviation are 0, and the others stay."""
    rubric = Rubric({"length": 1.0}, length_low=0, length_high=100)
    whole, kept = (
        roll_out(brief, batch_of(brief), RolloutSettings(SAMPLING, rubric, "dr_grpo", outlier_stds=stds)).advantages
        for stds in (inf, 1.0)
    )
    far = (whole - whole.mean()).abs() > whole.std()
    assert 0 < far.sum() < far.numel()
    assert torch.equal(kept, whole.masked_fill(far, 0.0))


def test_the_key_decides_the_draws(brief):
    first = thoughts_of(brief, key="0")
    assert thoughts_of(brief, key="0") == first
    other = thoughts_of(brief, key="1")
    assert all(other[name] != thoughts for name, thoughts in first.items())
    assert len(set(first.values())) == 6, "every video has its own"


def test_sampling_again_gives_other_thoughts(brief):
    """Every group is flat here, so that all are sampled twice."""
    once, twice = thoughts_of(brief), thoughts_of(brief, resample=1)
    assert all(twice[name] != thoughts for name, thoughts in once.items())


@pytest.mark.parametrize("videos_per_call", [1, 4, 6, 99])
def test_videos_per_call_does_not_change_the_thoughts(brief, videos_per_call):
    assert thoughts_of(brief, videos_per_call=videos_per_call) == thoughts_of(brief)


def test_the_thoughts_of_a_pair_do_not_depend_on_its_batch(brief):
    everyone = thoughts_of(brief)
    for company in ([1], [2, 1], [0, 2]):
        assert thoughts_of(brief, company).items() <= everyone.items()


def test_videos_are_seen_once_for_all_calls_or_in_every_one(brief):
    looks = []
    hook = brief.base.model.visual.register_forward_hook(lambda *_: looks.append(1))
    once = thoughts_of(brief, videos_per_call=2)
    assert len(looks) == 1
    assert thoughts_of(brief, videos_per_call=2, look_once=False) == once
    hook.remove()
    assert len(looks) == 1 + 3


def test_what_is_packed_is_what_was_sampled(brief):
    """Old log-probabilities, rewards and masks of the sampler, against a packed forward over some of the pairs."""
    rubric = Rubric({"length": 1.0}, length_low=0, length_high=8)
    rollouts = roll_out(brief, batch_of(brief), RolloutSettings(SAMPLING, rubric))
    pairs = [2, 0]
    branches, seen = rollouts.pack(brief.processor, pairs)
    with torch.no_grad():
        forward = brief(branches, with_logprobs=True, seen=seen)
    videos = rollouts.videos(pairs)
    assert videos == [2, 0, 5, 3]
    now, mask = rollouts.by_token(forward.logprobs, pairs), rollouts.mask[videos]
    assert_close(now * mask, rollouts.old_logprobs[videos], atol=1e-5, rtol=0)
    assert 0 < (~mask).sum() < mask.numel() / 2, "lengths differ"
    expected = torch.stack([rollouts.groups[video].rewards for video in videos])
    assert_close(forward.rewards.view(4, NUM_THOUGHTS, 1), expected, atol=1e-5, rtol=0)
    lengths = [[len(thought.token_ids) / 8 for thought in group.thoughts] for group in rollouts.groups]
    assert rollouts.rewards.tolist() == lengths


def test_what_lies_on_a_device_is_packed_there(qwen3, rollouts):
    """Stage 2 packs prefixes that the batch has brought to the device, where a collator has them on the host."""
    names = [field.name for field in fields(Prefix) if field.type == "Tensor"]
    moved = [replace(p, **{name: getattr(p, name).to("meta") for name in names}) for p in rollouts.prefixes]
    branches, _ = replace(rollouts, prefixes=tuple(moved)).pack(qwen3.processor, [0, 2])
    tensors = [getattr(branches, field.name) for field in fields(branches) if field.name != "layout"]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
