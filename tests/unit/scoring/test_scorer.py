"""Scoring real files: a record for each, in order, and a failure that stays with its item."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from descore.answer import Answer, write_thought
from descore.scoring import scorer as scoring
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from descore.thinking.think import think
from descore.types import Group, Thought

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


@pytest.mark.parametrize("prompt", ["", "  ", None])
def test_a_missing_prompt_fails_alone(scorer, clips, prompt):
    missing, good = scorer.score(clips[:2], [prompt, PROMPTS[1]])
    assert math.isnan(missing.reward)
    assert clips[0] in missing.error
    assert "expected a prompt" in missing.error
    assert_close(rewards_of([good]), rewards_of(scorer.score(clips[1:2], PROMPTS[1:2])))


def test_a_batch_of_bad_videos_only(scorer):
    assert all(math.isnan(score.reward) for score in scorer.score(["x.mp4", "y.mp4"], ["a", "b"]))


@pytest.mark.parametrize("num_thoughts", [1, 3])
@pytest.mark.parametrize("thoughts", [True, False])
def test_the_batch_size_changes_nothing(export, clips, num_thoughts, thoughts):
    one, all_at_once = (
        Scorer(export, device="cpu", batch_size=size, thoughts=thoughts).score(
            clips, PROMPTS, num_thoughts=num_thoughts
        )
        for size in (1, 3)
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


def test_no_more_than_the_next_batch_is_read_ahead(scorer, clips, monkeypatch):
    reads, read = [], scorer._read
    monkeypatch.setattr(scorer, "_read", lambda *pair: (reads.append(pair), read(*pair))[1])
    monkeypatch.setattr(scorer, "batch_size", 1)
    stream = scorer.stream(clips, PROMPTS)
    next(stream)
    assert len(reads) <= 2
    assert len(list(stream)) == 3
    assert len(reads) == 4


def test_nothing_gives_nothing(scorer):
    assert scorer.score([], []) == []


def test_videos_and_prompts_have_to_be_as_many(scorer, clips):
    with pytest.raises(ValueError, match="got 4 videos and 1 prompts"):
        scorer.score(clips, ["a bar"])
