"""Evaluations side by side, on the pairs that all of them have."""

import math
from pathlib import Path

import pytest

from descore.evaluation.comparison import compare, name_runs
from tests.helpers.given_rewards import evaluation, score

PAIRS = [(0, 1, 1), (2, 3, 1), (4, 5, 0), (6, 7, -1)]


class TestComparing:
    def test_on_the_pairs_that_all_have(self):
        """Shared are the first three; of two decided the first run has one right, and the second both."""
        first = evaluation([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], PAIRS)
        second = evaluation([1.0, 0.0, 1.0, 0.0, 5.0, 0.0], PAIRS[:3], name="other")
        found = compare([first, second])
        assert (found["benchmark"], found["num_pairs"], found["num_videos"]) == ("mine", 3, 6)
        one, other = found["dimensions"]["overall"]
        assert (one["run"], one["accuracy"], one["num_pairs"]) == ("run", 0.5, 2)
        assert "difference" not in one
        assert (other["accuracy"], other["difference"], other["p_value"]) == (1.0, 0.5, 1.0)
        assert other["difference_interval"] == (0.0, 1.0)

    def test_six_pairs_that_only_one_gets_right(self):
        """McNemar: two-sided, 2 / 2^6."""
        pairs = [(2 * i, 2 * i + 1, 1) for i in range(6)]
        found = compare([evaluation([0.0, 1.0] * 6, pairs), evaluation([1.0, 0.0] * 6, pairs, name="other")])
        assert found["dimensions"]["overall"][1]["p_value"] == pytest.approx(2 / 64)

    def test_pairs_are_found_in_whatever_order_a_run_has_them(self):
        """The first of three is called right by both runs, so they never differ."""
        rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
        one = evaluation(rewards, [(0, 1, 1), (2, 3, 1), (4, 5, 1)])
        other = evaluation(rewards, [], name="other", pairs=one.pairs[::-1])
        assert compare([one, other])["dimensions"]["overall"][1]["difference_interval"] == (0.0, 0.0)

    def test_single_videos_by_their_correlation(self):
        videos = [{"video": f"v{i}", "prompt": "p", "generator": "", "mos": {"overall": i}} for i in range(3)]
        runs = [evaluation(rewards, [], videos=videos) for rewards in ([0.0, 1.0, 2.0], [0.0, 2.0, 1.0])]
        found = compare(runs)["dimensions"]["overall"]
        assert [record["spearman"] for record in found] == pytest.approx([1.0, 0.5])
        assert math.isnan(found[0]["accuracy"])

    def test_what_cannot_be_compared_is_refused(self):
        one = evaluation([1.0, 0.0], PAIRS[:1])
        with pytest.raises(ValueError, match="expected at least two evaluations to compare, got 1"):
            compare([one])
        other = evaluation([1.0, 0.0], PAIRS[:1], info=one.info | {"benchmark": "theirs"})
        with pytest.raises(ValueError, match=r"one benchmark, but .*mine .*theirs"):
            compare([one, other])
        with pytest.raises(ValueError, match="not finished: 1 of 2 videos are scored"):
            compare([one, evaluation([1.0, 0.0], PAIRS[:1], scores=[score(1.0), None], summary={})])
        apart = evaluation([1.0, 0.0], PAIRS[:1], pairs=[one.pairs[0] | {"id": "another"}])
        with pytest.raises(ValueError, match="no pair in common"):
            compare([one, apart])


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/runs/a"], ["a"]),
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/runs/a/val", "/runs/b/val", "/runs/c"], ["a/val", "b/val", "runs/c"]),
        (["/runs/a", "/runs/b", "/runs/b"], ["a", "b", "b (3)"]),
        (["/runs/a", "/runs/a", "/runs/a"], ["a", "a (2)", "a (3)"]),
    ],
)
def test_runs_have_the_shortest_names_that_tell_them_apart(folders, names):
    assert name_runs([Path(folder) for folder in folders]) == names
