"""Signs of hacking, worked by hand on given rewards."""

import math

import pytest

from descore.evaluation.hacking import describe_spread, measure_hacking
from descore.scoring.folder import plain
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
