"""Scoring real files: a record for each, in order, and a failure that stays with its item."""

import asyncio
import math
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from descore.answer import Answer, write_thought
from descore.model.description import RewardStatistics
from descore.model.sampling import Sampling
from descore.scoring import together as scoring
from descore.scoring.asked import Asked
from descore.scoring.folder import ScoringError
from descore.scoring.reading import READ_AHEAD
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from descore.thinking.think import think
from descore.types import DIMENSIONS, Group, Thought

PROMPTS = ["a bright bar moves", "a cat", "nothing", "a bar over a gradient"]
ALL_TWO = {"subject": 2, "dynamics": 2, "camera": None, "environment": 1, "style": 2}


@pytest.fixture
def cut_off(clips: list[str], tmp_path: Path) -> str:
    path = tmp_path / "cut.mp4"
    path.write_bytes(Path(clips[0]).read_bytes()[:900])
    return str(path)


def rewards_of(scores: list[Score]) -> torch.Tensor:
    return torch.tensor([score.reward for score in scores])


def test_rewards_and_thoughts_are_the_models_own(scorer, clips):
    processor = scorer.model.processor
    for clip, prompt, score in zip(clips, PROMPTS, scorer.score(clips, PROMPTS), strict=True):
        branches = processor.pack([processor.prefix(prompt, processor.read(clip))], [[Thought()]])
        group = think(scorer.model, branches)[0]
        assert score.reward == pytest.approx(group.rewards.item(), abs=1e-5)
        assert score.thought == group.texts[0]
        assert score.num_thought_tokens == len(group.thoughts[0].token_ids) <= 6
        assert score.truncated != group.thoughts[0].closed


def test_a_bad_video_fails_alone(scorer, clips, cut_off):
    videos = [clips[0], "gone.mp4", clips[1], cut_off, clips[2]]
    scores = scorer.score(videos, ["a bar"] * 5)
    good = scorer.score(clips[:3], ["a bar"] * 3)
    assert [scores[0], scores[2], scores[4]] == good, "to the last bit"
    for score, name in ((scores[1], "gone.mp4"), (scores[3], "cut.mp4")):
        assert math.isnan(score.reward)
        assert name in score.error
        assert score.to_json()["reward"] is None
    assert all(score.error is None for score in good)


@pytest.mark.parametrize("prompt", ["", "  ", None, 7, math.nan, ["a cat"], "a cat \ud83d", "word " * 20_000])
def test_a_prompt_that_cannot_be_used_fails_alone(scorer, clips, prompt):
    missing, good = scorer.score(clips[:2], [prompt, PROMPTS[1]])
    assert math.isnan(missing.reward)
    assert clips[0] in missing.error
    assert "expected a prompt" in missing.error
    assert_close(rewards_of([good]), rewards_of(scorer.score(clips[1:2], PROMPTS[1:2])))


@pytest.mark.parametrize("video", [None, 7, math.nan, ["a.mp4"], "", "a\0.mp4", "a\ud83d.mp4", ".", "x" * 5000])
def test_a_video_that_is_none_fails_alone(scorer, clips, video):
    bad, good = scorer.score([video, clips[1]], "a bar")
    assert math.isnan(bad.reward)
    assert bad.error
    assert good.error is None


def test_one_path_is_one_video_and_one_prompt_is_that_of_all(scorer, clips):
    expected = scorer.score(clips, ["a bar"] * 4)
    assert scorer.score(map(Path, clips), "a bar") == expected
    assert (
        scorer.score(Path(clips[0]), "a bar") == scorer.score(clips[0], ["a bar"]) == scorer.score(clips[:1], "a bar")
    )


def poison(values: float, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the head give these values for the second video of a batch of three, and nothing else."""
    think_well = scoring.think

    def think_badly(*args: object, **options: object) -> list[Group]:
        groups = think_well(*args, **options)
        if len(groups) == 3:
            groups[1] = replace(groups[1], rewards=torch.full_like(groups[1].rewards, values))
        return groups

    monkeypatch.setattr(scoring, "think", think_badly)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("num_thoughts", [1, 2])
def test_a_reward_that_is_not_finite_is_a_failure(scorer, clips, monkeypatch, value, num_thoughts):
    poison(value, scorer, monkeypatch)
    first, bad, last = scorer.score(clips[:3], PROMPTS[:3], num_thoughts=num_thoughts)
    assert bad.to_json()["reward"] is None
    assert f"the head gives the reward {value:g}, which is not a finite number" in bad.error
    assert all(math.isfinite(score.reward) and score.error is None for score in (first, last))


@pytest.mark.parametrize(
    "error", [FloatingPointError("the model's logits are not finite"), torch.OutOfMemoryError("no")]
)
def test_a_video_that_the_model_cannot_think_about_fails_alone(scorer, clips, monkeypatch, error):
    expected = scorer.score(clips, PROMPTS)
    culprit = scorer.reader.read(Asked(clips[2], PROMPTS[2]), None).key
    think_well = scoring.think

    def think_badly(*args: object, **options: object) -> list[Group]:
        if culprit in options["names"]:
            raise error
        return think_well(*args, **options)

    monkeypatch.setattr(scoring, "think", think_badly)
    scores = scorer.score(clips, PROMPTS)
    assert scores[2].error == str(error)
    assert [score.error for score in scores].count(None) == 3
    assert_close(rewards_of(scores[:2] + scores[3:]), rewards_of(expected[:2] + expected[3:]), atol=1e-5, rtol=0)


def test_sampled_thoughts_depend_on_what_is_shown_and_not_on_the_file(scorer, clips, tmp_path):
    moved = tmp_path / "elsewhere.mp4"
    moved.write_bytes(Path(clips[0]).read_bytes())
    there, here = (scorer.score(path, "a bar", num_thoughts=3) for path in (moved, clips[0]))
    assert there == here
    other = scorer.score(clips[0], "a bar.", num_thoughts=3)
    assert [each.thought for each in other[0].each] != [each.thought for each in here[0].each]


def test_a_batch_of_bad_videos_only(scorer):
    assert all(math.isnan(score.reward) for score in scorer.score(["x.mp4", "y.mp4"], ["a", "b"]))


@pytest.mark.parametrize(("thoughts", "num_thoughts"), [(True, 1), (True, 3), (False, 1)])
def test_the_batch_size_changes_nothing(export, clips, num_thoughts, thoughts):
    one, all_at_once = (
        Scorer(export, device="cpu", max_batch_tokens=size, thoughts=thoughts).score(
            clips, PROMPTS, num_thoughts=num_thoughts
        )
        for size in (1, 300)
    )
    assert_close(rewards_of(one), rewards_of(all_at_once), atol=1e-5, rtol=0)
    assert [score.thought for score in one] == [score.thought for score in all_at_once]
    assert len(set(rewards_of(one).tolist())) == 4


def test_records_come_in_the_order_of_the_videos(scorer, clips):
    forward = scorer.score(clips, PROMPTS, num_thoughts=2)
    backward = scorer.score(clips[::-1], PROMPTS[::-1], num_thoughts=2)
    assert_close(rewards_of(forward), rewards_of(backward).flip(0), atol=1e-5, rtol=0)


def test_prompts_matter(scorer, clips):
    first, second = scorer.score([clips[0]] * 2, PROMPTS[:2])
    assert abs(first.reward - second.reward) > 1e-3


def test_several_thoughts_give_mean_and_standard_deviation(scorer, clips):
    (score,) = scorer.score(clips[:1], PROMPTS[:1], num_thoughts=3)
    a, b, c = (each.reward for each in score.each)
    mean = (a + b + c) / 3
    assert score.reward == pytest.approx(mean, abs=1e-6)
    deviation = math.sqrt(((a - mean) ** 2 + (b - mean) ** 2 + (c - mean) ** 2) / 2)
    assert score.reward_std == pytest.approx(deviation, abs=1e-6)
    assert deviation > 0
    assert len({each.thought for each in score.each}) == 3
    assert score.thought == score.each[0].thought
    assert [each["reward"] for each in score.to_json()["each"]] == [a, b, c]


def test_one_thought_is_the_most_probable_one_unless_a_temperature_is_given(scorer, clips):
    again = [scorer.score(clips[:1], PROMPTS[:1])[0] for _ in range(2)]
    assert again[0] == again[1]
    assert again[0].each == ()
    assert again[0].reward_std is None
    assert scorer.score(clips[:1], PROMPTS[:1], temperature=1.0)[0].thought != again[0].thought


def test_without_thoughts_nothing_is_said(export, clips):
    quick = Scorer(export, device="cpu", thoughts=False)
    (score,) = quick.score(clips[:1], PROMPTS[:1])
    processor = quick.model.processor
    prefix = processor.prefix(PROMPTS[0], processor.read(clips[0]))
    assert score == Score(quick.model(processor.pack([prefix], [[Thought()]])).rewards.item())


def test_several_rewards_have_names_and_a_sum(build, clips, tmp_path):
    build(reward_names=("motion", "look"), max_thought_tokens=3).save_pretrained(str(tmp_path / "export"))
    (score,) = Scorer(str(tmp_path / "export"), device="cpu").score(clips[:1], PROMPTS[:1], num_thoughts=2)
    assert list(score.rewards) == ["motion", "look"]
    assert score.reward == pytest.approx(sum(score.rewards.values()), abs=1e-6)
    for name in ("motion", "look"):
        mean = sum(each.rewards[name] for each in score.each) / 2
        assert score.rewards[name] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "closed", "scores", "overall", "truncated"),
    [
        (write_thought("it moves", Answer(ALL_TWO, 4.5)), True, ALL_TWO, 4.5, False),
        ("<think>it moves</think><answer>{}</answer>", True, None, None, False),
        ("<think>it mo", False, None, None, True),
    ],
)
def test_a_record_holds_what_the_thought_says(scorer, clips, monkeypatch, text, closed, scores, overall, truncated):
    group = Group((Thought((1, 2, 3), closed),), (text,), (torch.zeros(3),), torch.tensor([[0.25]]))
    monkeypatch.setattr(scoring, "think", lambda *_, **__: [group])
    (score,) = scorer.score(clips[:1], ["a bar"])
    assert score == Score(0.25, {}, text, scores, overall, 3, truncated)
    if scores:
        assert score.to_json()["dimension_scores"] == {**ALL_TWO, "camera": "N/A"}


def test_no_more_than_a_few_videos_are_read_ahead(scorer, clips, monkeypatch):
    reads, read = [], scorer.reader.read
    monkeypatch.setattr(scorer.reader, "read", lambda *pair: (reads.append(pair), read(*pair))[1])
    monkeypatch.setattr(scorer, "max_batch_tokens", 1)
    prompts = [f"a bar, {number}" for number in range(30)]
    stream = scorer.stream([clips[0]] * 30, prompts)
    next(stream)
    assert len(reads) <= READ_AHEAD + 2
    assert len(list(stream)) == 29
    assert len(reads) == 30


def test_nothing_gives_nothing(scorer):
    assert scorer.score([], []) == []


def test_videos_and_prompts_have_to_be_as_many(scorer, clips):
    with pytest.raises(ScoringError, match="got 4 videos and 1 prompts"):
        scorer.stream(clips, ["a bar"])


@pytest.mark.parametrize(
    ("videos", "prompts", "reason"),
    [
        (3, "a bar", "videos: expected one or a list, got int 3"),
        (None, "a bar", "videos: expected one or a list, got NoneType None"),
        ({"a.mp4": 1}, "a bar", "videos: expected one or a list, got dict"),
        ("a.mp4", None, "prompts: expected one or a list, got NoneType None"),
    ],
)
def test_what_is_no_list_is_named(scorer, videos, prompts, reason):
    with pytest.raises(TypeError, match=reason):
        scorer.score(videos, prompts)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_thoughts": 0}, "expected a number of thoughts of at least 1, got 0"),
        ({"num_thoughts": "3"}, "expected a number of thoughts of at least 1, got '3'"),
        ({"temperature": -1.0}, "temperature is -1"),
    ],
)
def test_options_out_of_range_are_refused(scorer, clips, options, reason):
    with pytest.raises(ScoringError, match=reason):
        scorer.stream(clips, "a bar", **options)


def test_options_of_the_scorer_are_checked_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ScoringError, match="expected a number of tokens in a batch of at least 1, got -1"):
        Scorer(str(tmp_path), max_batch_tokens=-1)
    with pytest.raises(ScoringError, match="expected the dtype float32 or bfloat16, got 'float16'"):
        Scorer(str(tmp_path), dtype="float16")
    for device in ("cuda:99", "gpu", "meta", "cpu:x"):
        with pytest.raises(ScoringError, match=f"device '{device}' is not there: expected one of cpu"):
            Scorer(str(tmp_path), device=device)


@pytest.fixture
def lossless(tmp_path: Path) -> tuple[str, np.ndarray]:
    """A file without losses, of 20 frames at 8 a second, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    path = str(tmp_path / "lossless.mkv")
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=8, width=64, height=48, pix_fmt="bgr0")
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path, pixels


def test_pixels_in_memory_score_as_those_of_a_lossless_file_to_the_bit(scorer, lossless, tmp_path):
    path, pixels = lossless
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"frame{number}.png")
    kinds = [
        path,
        Path(path).read_bytes(),
        pixels,
        pixels.transpose(0, 3, 1, 2),
        torch.from_numpy(pixels),
        pixels.astype(np.float64) / 255,
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
        [Image.fromarray(picture) for picture in pixels],
        list(pixels),
        tmp_path,
    ]
    expected, *others = scorer.score(kinds, "a bar", num_thoughts=2, fps=8)
    assert expected.error is None
    assert others == [expected] * (len(kinds) - 1)
    alone = [scorer.score(kind, "a bar", fps=8) for kind in kinds if kind is not kinds[8]]  # a list is several
    assert alone == [alone[0]] * 9


@pytest.mark.parametrize(
    ("video", "fps", "reason"),
    [
        (
            np.zeros((4, 8, 8, 3), np.uint8),
            None,
            "frames in memory: expected its frame rate, such as fps=8, got fps=None",
        ),
        (np.zeros((4, 8, 8, 3), np.uint8), 0, "got fps=0"),
        (np.zeros((4, 8, 8, 3), np.uint8), math.nan, "got fps=nan"),
        (np.zeros((4, 3, 8, 3), np.uint8), 8, "can be read in two ways"),
        (np.zeros((4, 8, 8), np.uint8), 8, r"expected frames \[T, 3, H, W\] or \[T, H, W, 3\], got \[4, 8, 8\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), 8, r"got \[0, 8, 8, 3\]"),
        (np.zeros((4, 8, 8, 3), np.int64), 8, "expected frames in uint8 or in numbers from 0 to 1, got int64"),
        (np.full((4, 8, 8, 3), 127.0), 8, "expected numbers from 0 to 1, got 127 to 127"),
        (np.full((4, 8, 8, 3), np.nan), 8, "expected numbers from 0 to 1, got nan to nan"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], 8, "expected frames of one shape"),
        ([Image.new("RGB", (8, 8)), "a.png"], 8, "expected an array, a tensor or a PIL image of frames, got str"),
        (np.zeros((4, 8, 8000, 3), np.uint8), 8, "expected a side at most 200 times as long"),
        (b"no video", None, "a video of 8 bytes: "),
        ({"path": "a.mp4"}, 8, "expected an array, a tensor or a PIL image of frames, got dict"),
    ],
)
def test_frames_that_are_none_fail_alone(scorer, clips, video, fps, reason):
    bad, good = scorer.score([video, clips[1]], "a bar", fps=fps)
    assert math.isnan(bad.reward)
    assert re.search(reason, bad.error), bad.error
    assert "/tmp" not in bad.error
    assert good.error is None


def test_a_given_thought_is_scored_and_none_is_the_fast_mode(export, scorer, clips):
    own = scorer.score(clips, PROMPTS)
    given = scorer.score(clips, PROMPTS, thought=[score.thought for score in own])
    assert [score.thought for score in given] == [score.thought for score in own]
    assert scorer.score(clips, PROMPTS, thought="") == Scorer(export, device="cpu", thoughts=False).score(
        clips, PROMPTS
    )
    (said,) = scorer.score(clips[0], "a bar", thought=write_thought("it moves", Answer(ALL_TWO, 4.5)))
    assert (said.dimension_scores, said.overall_score) == (ALL_TWO, 4.5)
    assert said.reward != own[0].reward
    with pytest.raises(ScoringError, match="num_thoughts is 3, which contradicts"):
        scorer.score(clips, PROMPTS, thought="", num_thoughts=3)
    with pytest.raises(ScoringError, match="expected one thought per video, got 4 videos and 1 thoughts"):
        scorer.score(clips, PROMPTS, thought=["one"])


def test_scoring_leaves_the_event_loop_free(scorer, clips):
    async def both() -> list[list[Score]]:
        return await asyncio.gather(*(scorer.score_async(clip, "a bar") for clip in clips[:2]))

    assert [scores[0] for scores in asyncio.run(both())] == [scorer.score(clip, "a bar")[0] for clip in clips[:2]]


def test_a_backbone_in_bfloat16_scores_nearly_the_same_with_a_head_in_float32(export, scorer, clips):
    half = Scorer(export, device="cpu", dtype="bfloat16")
    assert half.model.base.dtype == torch.bfloat16
    assert half.model.head.weight.dtype == torch.float32
    ours, theirs = (rewards_of(one.score(clips, PROMPTS, thought="")) for one in (half, scorer))
    assert_close(ours, theirs, atol=0.05 * float(theirs.std()) + 0.05, rtol=0.05)
    assert (ours != theirs).any()
    alone = rewards_of([half.score(clip, prompt, thought="")[0] for clip, prompt in zip(clips, PROMPTS, strict=True)])
    assert_close(ours, alone, atol=0.05 * float(theirs.std()), rtol=0)


def test_a_reward_is_normalised_by_what_the_export_knows(build, clips, tmp_path):
    model = build(max_thought_tokens=3)
    model.save_pretrained(str(tmp_path / "export"), calibration=RewardStatistics((2.0,), (4.0,)))
    (score,) = Scorer(str(tmp_path / "export"), device="cpu").score(clips[0], "a bar")
    assert score.normalised_reward == pytest.approx((score.reward - 2) / 4)


def test_batches_keep_within_their_tokens_whatever_is_in_them(scorer, clips, monkeypatch):
    grouped = []
    score = scorer.score_batch
    monkeypatch.setattr(scorer, "score_batch", lambda items, sampling: grouped.append(items) or score(items, sampling))
    prompts = [f"a bar, {number}" for number in range(12)]
    monkeypatch.setattr(scorer, "max_batch_tokens", 400)
    assert len(scorer.score(clips * 3, prompts)) == 12
    sampling = Sampling()
    sizes = [sum(scorer.num_tokens(item, sampling) for item in group) for group in grouped]
    assert 1 < len(grouped) < 12
    assert max(sizes) <= 400
    firsts = [scorer.num_tokens(group[0], sampling) for group in grouped[1:]]
    assert all(size + first > 400 for size, first in zip(sizes, firsts, strict=False))


def spied(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple]:
    """Record the arguments of every call of a method."""
    calls, method = [], getattr(owner, name)

    def spy(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, spy)
    return calls


@pytest.mark.parametrize("kind", ["path", "frames"])
def test_one_video_with_several_prompts_is_decoded_and_seen_once(export, clips, monkeypatch, kind):
    scorer = Scorer(export, device="cpu")
    video = clips[0] if kind == "path" else np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8)
    prompts = [f"a bar {number}" for number in range(3)]
    alone = [scorer.score([video], [prompt], fps=8)[0] for prompt in prompts]
    decoded, seen = spied(monkeypatch, scorer.reader, "_frames"), spied(monkeypatch, scorer.model, "_see")
    together = scorer.score([video] * 3, prompts, fps=8)
    assert len(decoded) == 1
    assert [len(videos.grids) for (videos,) in seen] == [1]
    assert [score.reward for score in together] == pytest.approx([score.reward for score in alone], abs=1e-5)
    assert [score.thought for score in together] == [score.thought for score in alone]


@pytest.mark.parametrize("source", [None, "overall_score", "expected_score"])
def test_one_prompt_with_many_given_thoughts_is_read_once(export, clips, monkeypatch, source):
    scorer = Scorer(export, device="cpu", reward_from=source)
    right = write_thought("a bar", Answer(dict.fromkeys(DIMENSIONS, 2), 4.5))
    texts = [right, "no answer", "", right.replace("4.5", "2.0")]
    asked = [clips[0]] * 4 + [clips[1]]
    alone = [scorer.score(video, "a bar", thought=text)[0] for video, text in zip(asked, [*texts, right], strict=True)]
    items = [scorer.reader.read(Asked(video, "a bar", right), None) for video in clips[:2]]
    scorer.max_batch_tokens = sum(len(item.prefix.input_ids) + 5 * len(item.thought.token_ids) for item in items)
    packed = spied(monkeypatch, scorer.model, "_hidden")
    together = scorer.score(asked, "a bar", thought=[*texts, right])
    assert {len(branches.layout.prefix_lengths) for branches, *_ in packed} == {2}
    assert [score.thought for score in together] == [*texts, right]
    assert [score.error for score in together] == [score.error for score in alone]
    rewards = [score.reward for score in alone]
    assert [score.reward for score in together] == pytest.approx(rewards, abs=1e-5, nan_ok=True)
