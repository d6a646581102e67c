"""Comparing real files: both orders, records, and failures that stay with their pair."""

import math
from dataclasses import replace

import pytest

from descore import Comparison, Scorer
from descore.model.sampling import Sampling
from descore.pairwise.comparison import Order, compare_orders
from descore.scoring.asked import Asked
from descore.scoring.folder import ScoringError
from tests.conftest import Build
from tests.unit.pairwise.conftest import CHOICE, TEMPLATE


@pytest.fixture(scope="module")
def thinker(build: Build, tmp_path_factory) -> Scorer:
    folder = tmp_path_factory.mktemp("thinker") / "export"
    settings = {"template": TEMPLATE, "reward_from": "choice", "choice": replace(CHOICE, lead="<")}
    build(**settings, max_thought_tokens=6).save_pretrained(str(folder))
    return Scorer(str(folder), device="cpu")


def test_the_mean_of_both_orders_by_hand():
    """A first says .6 .3 .1, B first .2 .3 .5 for A: the mean is .4 .3 .3, and .4 moves from A to B."""
    found = compare_orders(Order(0.6, 0.3, 0.1), Order(0.2, 0.3, 0.5))
    assert [found.p_a, found.p_tie, found.p_b] == pytest.approx([0.4, 0.3, 0.3])
    assert found.order_disagreement == pytest.approx(0.4)
    assert (found.verdict, found.verdict_changes, found.orders[1].verdict) == ("A", True, "B")
    assert found.margin == pytest.approx(math.log(0.55 / 0.45))


def test_an_order_without_a_choice_is_named():
    nothing = Order(math.nan, math.nan, math.nan, ("x", "y"), (1, 1), ("no answer", "no answer"))
    found = compare_orders(Order(1.0, 0.0, 0.0), nothing)
    assert math.isnan(found.p_a)
    assert found.verdict is None
    assert found.error == "with B first, none of 2 thoughts has a choice; the first one: no answer"


def test_swapped_videos_swap_the_record(comparer, clips):
    (one,) = comparer.compare(clips[0], clips[1], "a bar")
    (other,) = comparer.compare(clips[1], clips[0], "a bar")
    assert one.error is None
    assert (other.p_a, other.p_tie, other.p_b) == pytest.approx((one.p_b, one.p_tie, one.p_a), abs=1e-6)
    assert one.p_a + one.p_tie + one.p_b == pytest.approx(1, abs=1e-6)
    assert 0 < one.order_disagreement <= 1, "the model is random: it prefers a place"
    assert other.order_disagreement == pytest.approx(one.order_disagreement, abs=1e-6)


def test_a_video_against_itself_is_even(comparer, clips):
    (found,) = comparer.compare(clips[0], clips[0], "a bar")
    assert found.p_a == pytest.approx(found.p_b, abs=1e-6)


def test_pairs_together_are_pairs_alone_and_a_bad_one_fails_alone(comparer, clips):
    together = comparer.compare([clips[0], "gone.mp4", clips[2]], clips[1:4], "a bar")
    alone = [comparer.compare(a, b, "a bar")[0] for a, b in zip(clips[::2], clips[1::2], strict=True)]
    for found, expected in zip(together[::2], alone, strict=True):
        assert (found.p_a, found.p_b) == pytest.approx((expected.p_a, expected.p_b), abs=1e-5)
    assert "gone.mp4" in together[1].error
    assert math.isnan(together[1].p_a)


def test_thoughts_are_written_in_each_order(thinker, clips):
    (found,) = thinker.compare(clips[0], clips[1], "a bar", num_thoughts=2)
    assert [len(order.thoughts) for order in found.orders] == [2, 2]
    assert all(length <= 6 for order in found.orders for length in order.num_thought_tokens)
    assert (found.error is None) == (found.verdict is not None)
    (again,) = thinker.compare(clips[0], clips[1], "a bar", num_thoughts=2)
    assert again.to_json() == found.to_json(), "draws are keyed by the pair"


def test_the_record_survives_json(comparer, clips):
    for found in comparer.compare([clips[0], "gone.mp4"], clips[1], "a bar"):
        again = Comparison.from_json(found.to_json())
        assert again.to_json() == found.to_json()
        assert repr(again) == repr(found)


def test_each_judgement_says_what_to_do_instead(comparer, scorer, clips):
    with pytest.raises(ScoringError, match=r"compares two videos.*descore rank"):
        comparer.score(clips[0], "a bar")
    with pytest.raises(ScoringError, match="scores one video at a time: score both"):
        scorer.compare(clips[0], clips[1], "a bar")
    with pytest.raises(ScoringError, match="2 videos A, 3 videos B and 2 prompts"):
        comparer.compare(clips[:2], clips[:3], "a bar")


def test_the_same_pair_again_takes_its_tokens_again(judge_export, clips, monkeypatch):
    """Every pair of a batch is packed with its own two prefixes, so each counts against the bound of memory."""
    sizes = []
    comparer = Scorer(judge_export, device="cpu")
    one = comparer.reader.read(Asked(clips[0], "a bar", None, clips[1]), None)
    tokens = comparer.num_tokens(one, Sampling())
    assert tokens >= 2 * len(one.prefix.input_ids)
    pack = comparer.model.processor.pack
    monkeypatch.setattr(comparer.model.processor, "pack", lambda *of: sizes.append(pack(*of)) or sizes[-1])
    comparer.max_batch_tokens = 3 * tokens
    found = comparer.compare([clips[0]] * 8, clips[1], "a bar")
    assert [record.error for record in found] == [None] * 8
    assert max(sum(packed.layout.prefix_lengths) for packed in sizes) <= 3 * tokens
