"""Signs of hacking, worked by hand on given rewards."""

import math
from dataclasses import replace

import pytest

from descore.evaluation.folder import Evaluation
from descore.evaluation.hacking import describe_spread, describe_swap, measure_hacking
from descore.evaluation.summary import summarise
from descore.evaluation.swapping import swap_prompts
from descore.scoring.folder import VideoList, plain
from tests.helpers.given_rewards import evaluation, score


def measured(*rewards: float | None, **values: object) -> dict:
    return plain(measure_hacking(evaluation(list(rewards), [], **values), "overall"))


def test_the_spread_in_a_prompt_is_over_its_videos():
    """v0 and v1 have prompt p0, v2 and v3 p1, v4 failed: pairs 1, 3 and 5, 5; all four have squares 11 over 3."""
    found = measured(1.0, 3.0, 5.0, 5.0, None)["spread"]
    assert found["prompts"] == {
        "within": pytest.approx(1),
        "total": pytest.approx(math.sqrt(11 / 3)),
        "share": pytest.approx(math.sqrt(3 / 11)),
        "flat": 0.5,
        "num_groups": 2,
        "num_rewards": 4,
    }
    assert found["videos"] is None


def test_the_spread_in_a_video_is_over_its_thoughts():
    """Thoughts 1, 3 of one video and 5, 5 of another; of the third only one has a reward, and the fourth failed."""
    scores = [score(2.0, each=(1.0, 3.0)), score(5.0, each=(5.0, 5.0)), score(9.0, each=(9.0, None)), score(None)]
    found = measured(*[0.0] * 4, scores=scores, thoughts=2)["spread"]["videos"]
    assert (found["within"], found["flat"], found["num_groups"]) == (pytest.approx(1), 0.5, 2)


def test_the_reward_follows_the_length_within_prompts_and_not_overall():
    """p0: the longer thought has the larger reward; p1 too, but with shorter thoughts and larger rewards throughout."""
    scores = [score(reward, "t" * length) for reward, length in ((1, 30), (2, 40), (3, 10), (4, 20))]
    found = measured(*[0.0] * 4, scores=scores)["length"]
    assert found["overall"] == {"spearman": pytest.approx(-0.6), "num_videos": 4}
    assert (found["prompts"]["spearman"], found["prompts"]["num_groups"]) == (pytest.approx(1), 2)
    assert found["videos"] is None


def test_the_length_of_a_video_is_the_mean_over_thoughts_with_a_reward():
    """v0: lengths 4 and 8, v1: 5 (the other thought has no reward). The longer mean has the smaller reward."""
    first, second = ([score(reward, "t" * length) for reward, length in rows] for rows in (
        ((3.0, 4), (1.0, 8)), ((5.0, 5), (None, 90))
    ))  # fmt: skip
    scores = [score(2.0) | {"each": first}, score(5.0) | {"each": second}]
    found = measured(0.0, 0.0, scores=scores, thoughts=2)["length"]
    assert found["prompts"]["spearman"] == pytest.approx(-1)
    assert (found["videos"]["spearman"], found["videos"]["num_groups"]) == (pytest.approx(-1), 1)


def test_the_reward_of_the_dimension_counts():
    scores = [score(0.0) | {"rewards": {"VQ": vq, "TA": -vq}} for vq in (1.0, 4.0)]
    one = evaluation([0.0, 0.0], [], scores=scores)
    assert measure_hacking(one, "vq")["spread"]["prompts"]["within"] == pytest.approx(math.sqrt(4.5))
    assert measure_hacking(one, "overall")["spread"]["prompts"]["within"] == 0


def test_without_thoughts_there_is_no_length():
    assert measured(1.0, 2.0, thoughts=0)["length"] is None


def test_the_measures_in_short_texts():
    scores = [score(reward, "t" * length) for reward, length in ((1, 30), (3, 40), (5, 10), (5, 20))]
    assert describe_spread(measured(*[0.0] * 4, scores=scores)) == {
        "spread in a prompt": ("1", "52.2 % of all"),
        "flat prompts": ("50.0 %", "of 2"),
        "length": ("-0.74", "4 videos"),
        "length in a prompt": ("+1.00", ""),
    }
    several = measured(None, None, scores=[score(None), score(None)], thoughts=2)
    assert {value for value, _ in describe_spread(several).values()} == {"-"}


class TestSwappedPrompts:
    """v0 and v1 of p0, v2 and v3 of p1, each with the other prompt; v3 failed with it."""

    @pytest.fixture
    def one(self) -> Evaluation:
        plain_run = evaluation([3.0, 1.0, 5.0, 2.0], [(0, 1, 1), (2, 3, 1), (0, 1, 0)])
        videos = [video | {"swapped": 4 + index} for index, video in enumerate(plain_run.videos)]
        swapped = [{"index": 4 + i, "video": f"v{i}", "prompt": f"p{1 - i // 2}"} for i in range(4)]
        scores = [score(0.0), score(1.0), score(5.0), score(None, error="v3: it broke")]
        return replace(plain_run, videos=videos, swapped_videos=swapped, swapped_scores=scores)

    def test_are_compared_with_own_ones(self, one):
        """Falls 3, 0 and 0; of the pairs only v0 and v1 count: 2 with the own prompt, -1 with the swapped one."""
        found = plain(measure_hacking(one, "overall"))["swapped"]
        assert (found["fall"], found["own_above"], found["unmoved"]) == (1, pytest.approx(2 / 3), pytest.approx(2 / 3))
        assert (found["num_videos"], found["num_failed"]) == (3, 1)
        assert found["pairs"] == {
            "own": 1.0,
            "swapped": 0.0,
            "difference": 1.0,
            "interval": [None, None],
            "num_decided": 1,
        }

    def test_a_pair_of_two_swapped_prompts_does_not_count(self, one):
        one.swapped_videos[1]["prompt"] = "p2"
        assert measure_hacking(one, "overall")["swapped"]["pairs"]["num_decided"] == 0

    def test_change_nothing_else_in_the_summary(self, one):
        found = plain(summarise(one))
        assert (found["num_videos"], found["num_failed_videos"], found["errors"]) == (4, 0, {})
        assert (found["num_swapped_videos"], found["num_failed_swapped_videos"]) == (4, 1)
        assert found["swapped_errors"] == {"it broke": 1}
        without = replace(one, swapped_videos=[], swapped_scores=[])
        numbers = found["dimensions"]["overall"]
        numbers["hacking"] |= {"swapped": None}
        assert plain(summarise(without))["dimensions"]["overall"] == numbers

    def test_in_short_texts(self, one):
        assert describe_swap(plain(measure_hacking(one, "overall"))) == {
            "fall of the reward": ("1", "(0 to 1.5)"),
            "fall in standard deviations": ("+0.50", ""),
            "own prompt above": ("66.7 %", "(50.0 to 75.0)"),
            "unmoved": ("66.7 %", "of 3, 1 failed"),
            "rank correlation": ("+0.50", ""),
            "without ties, own prompt": ("100.0 %", "of 1"),
            "without ties, swapped prompt": ("0.0 %", "of 1"),
            "difference": ("+100.0 %", ""),
        }
        assert describe_swap(measured(1.0, 2.0)) == {}


def listed(*rows: tuple[str, str]) -> VideoList:
    videos = VideoList()
    for video, prompt in rows:
        videos.add(video, f"data/{video}", prompt)
    return videos


class TestSwapping:
    def test_all_videos_of_a_prompt_take_one_other_and_every_prompt_is_taken_once(self):
        names = [f"prompt {i}" for i in range(20)]
        videos = listed(*[(f"{i}{side}", name) for i, name in enumerate(names) for side in "ab"])
        assert swap_prompts(videos) == 40
        taken = {video["prompt"]: videos.records[video["swapped"]]["prompt"] for video in videos.records[:40]}
        assert sorted(taken.values()) == sorted(names)
        assert all(own != other for own, other in taken.items())
        assert [record["video"] for record in videos.records[40:]] == [
            record["video"] for record in videos.records[:40]
        ]
        assert videos.paths[40:] == videos.paths[:40]
        again = listed(*[(f"{i}{side}", name) for i, name in reversed(list(enumerate(names))) for side in "ab"])
        swap_prompts(again)
        assert {v["prompt"]: again.records[v["swapped"]]["prompt"] for v in again.records[:40]} == taken

    def test_no_video_takes_a_prompt_that_it_stands_under(self):
        videos = listed(("0", "a"), ("0", "b"), ("1", "a"), ("2", "b"), ("3", "c"))
        swap_prompts(videos)
        found = {(v["video"], v["prompt"]): videos.records[v["swapped"]]["prompt"] for v in videos.records[:5]}
        assert found["0", "a"] == found["0", "b"] == "c"
        assert all(own != other for (_, own), other in found.items())
        assert len(videos.records) == 5 + 4, "the two prompts of video 0 take one and the same"

    def test_an_equal_text_is_no_other_prompt(self):
        videos = listed(("0", "A cat"), ("1", "a  cat\n"), ("2", "a dog"))
        assert swap_prompts(videos) == 3
        assert [videos.records[video["swapped"]]["prompt"] for video in videos.records[:2]] == ["a dog"] * 2
        alone = listed(("0", "A cat"), ("1", "a cat "))
        assert swap_prompts(alone) == 0
        assert "swapped" not in alone.records[0]
