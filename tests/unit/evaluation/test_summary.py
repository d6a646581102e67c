"""Summaries worked by hand."""

import math

import pytest

from descore.answer import Answer, write_thought
from descore.evaluation.comparison import compare
from descore.evaluation.folder import Evaluation
from descore.evaluation.summary import summarise
from descore.scoring.folder import plain
from tests.helpers.given_rewards import evaluation, numbers_of, score

TRUTH = {"subject": 2, "dynamics": 1, "camera": "N/A", "environment": 0, "style": 2}


def test_accuracies_by_hand():
    """Margins 3, -1, 0.5, nan of A, A, tie, B: one of two decided is right, and a threshold of 0.5 saves the tie."""
    one = evaluation([3.0, 0.0, 1.0, 2.0, 1.5, 1.0, 1.0, None], [(0, 1, 1), (2, 3, 1), (4, 5, 0), (6, 7, -1)])
    numbers = numbers_of(one)
    assert (numbers["without_ties"], numbers["num_decided"]) == (0.5, 2)
    assert (numbers["with_ties"], numbers["tie_threshold"], numbers["num_pairs"]) == (pytest.approx(2 / 3), 0.5, 3)
    assert (numbers["num_failed"], numbers["num_unusable"]) == (1, 0)
    assert numbers["without_ties_interval"] == [0.0, 1.0]
    assert numbers["calibration"]["expected_error"] is not None
    assert numbers["correlation"] is None
    assert numbers["fixed_threshold"] is None


def test_a_pair_counts_for_both_generators():
    one = evaluation([1.0, 0.0, 2.0], [(0, 1, 1), (1, 2, 1), (0, 0, 1)])
    groups = numbers_of(one)["by_generator"]
    # g0: right, and one pair with itself, whose margin of 0 is wrong. g1: right and wrong. g2: wrong.
    assert {name: (group["without_ties"], group["num_pairs"]) for name, group in groups.items()} == {
        "g0": (0.5, 2),
        "g1": (0.5, 2),
        "g2": (0.0, 1),
    }


def test_what_more_thoughts_buy_by_hand():
    """Margins of three thoughts: 3, -1, -1. One thought is right once in three, any two twice, their mean always."""
    scores = [score(1 / 3, each=(3.0, -1.0, -1.0)), score(0.0, each=(0.0, 0.0, 0.0))]
    one = evaluation([0.0, 0.0], [(0, 1, 1)], scores=scores, thoughts=3)
    assert numbers_of(one)["by_num_thoughts"] == pytest.approx({"1": 1 / 3, "2": 2 / 3, "3": 1.0})
    assert numbers_of(evaluation([0.0, 1.0], [(0, 1, 1)]))["by_num_thoughts"] is None


def test_a_thought_without_a_reward_is_left_out_of_the_mean():
    """A: 4, none, 2. B: 3, 3, 3. Windows of one: right, none, wrong; of two: 4, 2 and 3 for A; of all: 3, a tie."""
    scores = [score(3.0, each=(4.0, None, 2.0)), score(3.0, each=(3.0, 3.0, 3.0))]
    one = evaluation([0.0, 0.0], [(0, 1, 1)], scores=scores, thoughts=3)
    found = summarise(one)["dimensions"]["overall"]["by_num_thoughts"]
    assert found == pytest.approx({"1": math.nan, "2": 1 / 3, "3": 0.0}, nan_ok=True)


def test_a_video_that_failed_has_no_thoughts_to_count():
    scores = [score(1.0, each=(1.0, 1.0)), score(None), score(0.0, each=(0.0, 0.0))]
    one = evaluation([0.0] * 3, [(0, 1, 1), (0, 2, 1)], scores=scores, thoughts=2)
    assert numbers_of(one)["by_num_thoughts"] == {"1": 1.0, "2": 1.0}


def test_thoughts_are_graded_by_the_annotations():
    exact = {"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}
    good, fair = (write_thought("It moves.", Answer(scores)) for scores in (exact, exact | {"style": 0}))
    scores = [
        score(1.0, good, num_thought_tokens=10),
        score(2.0, fair, num_thought_tokens=20, truncated=True),
        score(None, "<think>", num_thought_tokens=30, error="the thought says no score"),
        score(None),
    ]
    pairs = [
        {"id": "0", "prompt": "p", "a": 0, "b": 1, "preference": {"overall": 1}, "scores_a": TRUTH, "scores_b": TRUTH},
        {"id": "1", "prompt": "p", "a": 2, "b": 3, "preference": {"overall": 1}, "scores_a": None, "scores_b": TRUTH},
    ]
    found = plain(summarise(evaluation([0.0] * 4, [], scores=scores, pairs=pairs)))["thoughts"]
    assert found == {
        "well_formed": pytest.approx(2 / 3),
        "mean_tokens": 20,
        "truncated": pytest.approx(1 / 3),
        "quality": pytest.approx(0.9),
        "mean_std": None,
    }


def test_an_answer_with_fields_is_well_formed_where_all_are_said_and_has_no_quality():
    """Such an answer is not DeScore's: it has no dimension scores that could be right or wrong."""
    scores = [score(4.0, "style: 4", overall_score=4.0), score(None, "style: ?", overall_score=None, error="no style")]
    pair = {
        "id": "0",
        "prompt": "p",
        "a": 0,
        "b": 1,
        "preference": {"overall": 1},
        "scores_a": TRUTH,
        "scores_b": TRUTH,
    }
    one = evaluation([0.0, 0.0], [], scores=scores, pairs=[pair])
    one.info["protocol"]["fields"] = ["style"]
    found = plain(summarise(one))["thoughts"]
    assert (found["well_formed"], found["quality"]) == (0.5, None)


def test_failures_are_counted_by_reason_without_their_video():
    scores = [
        score(None, error="/data/v0: it broke"),
        score(None, error="v1: it broke"),
        score(None, error="v2: it is empty"),
        score(1.0),
    ]
    summary = summarise(evaluation([0.0] * 4, [], scores=scores))
    assert summary["errors"] == {"it broke": 2, "it is empty": 1}
    assert (summary["num_videos"], summary["num_failed_videos"]) == (4, 3)


def test_opinion_scores_are_correlated():
    videos = [
        {"video": f"v{i}", "prompt": "p", "generator": "", "mos": {"overall": mos}}
        for i, mos in enumerate((1, 2, 3, None))
    ]
    found = numbers_of(evaluation([0.1, 0.3, 0.2, 0.9], [], videos=videos))["correlation"]
    assert found["spearman"] == pytest.approx(0.5)
    assert (found["num_videos"], found["num_unusable"]) == (3, 1)


def test_a_threshold_of_another_split():
    summary = {"dimensions": {"overall": {"tie_threshold": 0.75}}}
    other = evaluation([0.0], [], name="val", summary=summary)
    numbers = numbers_of(evaluation([1.0, 0.5, 3.0, 0.0], [(0, 1, 0), (2, 3, 1)]), other)
    assert numbers["fixed_threshold"] == {"threshold": 0.75, "from": "val", "accuracy": 1.0}


class TestPairsOfOnePrompt:
    """Four pairs of one prompt are called right, and four of another wrong.

    Drawn by prompt, the mean of a resample is 0, 1/2 or 1, and both bounds are reached in a quarter of them. Drawn row
    by row, at most 1 of 8 is right in 9 of 256 resamples, more than 2.5 %: the bounds are 1/8 and 7/8.
    """

    @staticmethod
    def run(right_first: bool, *, name: str = "run", ties: bool = False) -> Evaluation:
        margins = [1.0 if right_first else -1.0] * 4 + [-1.0 if right_first else 1.0] * 4
        pairs = [(2 * i, 2 * i + 1, 1) for i in range(8)] + ([(0, 0, 0), (8, 8, 0)] if ties else [])
        one = evaluation([reward for margin in margins for reward in (margin, 0.0)], pairs, name=name)
        prompts = ["p"] * 4 + ["q"] * 4 + ["p", "q"]
        records = [pair | {"prompt": prompt} for pair, prompt in zip(one.pairs, prompts, strict=False)]
        return Evaluation(one.folder, one.info, records, one.videos, one.scores, one.summary)

    def test_are_drawn_together_for_the_interval_without_ties(self):
        assert numbers_of(self.run(True))["without_ties_interval"] == [0.0, 1.0]

    def test_are_drawn_together_for_the_interval_with_ties(self):
        """Without a margin below 0 the tie of each prompt counts as right: 5 of 5, and 1 of 5."""
        found = numbers_of(self.run(True, ties=True))
        assert found["tie_threshold"] == 0
        assert found["with_ties_interval"] == pytest.approx([0.2, 1.0])

    def test_are_drawn_together_where_runs_are_compared(self):
        """The runs are right about different prompts: the difference is 1 for one of them, and -1 for the other."""
        one, other = compare([self.run(True), self.run(False, name="other")])["dimensions"]["overall"]
        assert one["interval"] == other["interval"] == (0.0, 1.0)
        assert other["difference"] == 0
        assert other["difference_interval"] == (-1.0, 1.0)
