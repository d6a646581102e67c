"""What the evidence computes of evaluations, by hand; and what its page says of an interval."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from benchmarks.evidence import results
from benchmarks.evidence.plan import Scale
from benchmarks.evidence.words import claim, gain, verdicts
from descore.evaluation.folder import load_evaluation
from tests.helpers.evaluations import Judged, Shown, write_evaluation

NAN = math.nan


def difference(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def test_calls_of_seeds_are_summed_up_over_pairs_and_seeds() -> None:
    """Two seeds, four pairs: 2/3 and 1/3 of the three that count are right; pairs are right in 1, 1/2 and 0 of them."""
    calls = torch.tensor([[1.0, 1.0, 0.0, NAN], [1.0, 0.0, 0.0, NAN]])
    found = results.summarise(calls)
    assert found["seeds"] == pytest.approx([2 / 3, 1 / 3])
    assert found["mean"] == pytest.approx(1 / 2)
    assert 0 <= found["low"] < 1 / 2 < found["high"] <= 1


def test_thoughts_are_averaged_first_to_last_and_spread_is_that_of_both_videos(tmp_path: Path) -> None:
    pairs = [
        Judged("one", Shown("a.mp4", 2.0, each=(1.0, 3.0)), Shown("b.mp4", 1.5, each=(2.0, 1.0)), "A"),
        Judged("two", Shown("c.mp4", 0.0, each=(0.0, 0.0)), Shown("d.mp4", None, "broken"), "B"),
    ]
    evaluation = load_evaluation(write_evaluation(tmp_path / "run", pairs, thoughts=2))
    assert results._margins_of_first(evaluation, 1).tolist()[0] == -1.0
    assert results._margins_of_first(evaluation, 2).tolist()[0] == 0.5
    assert math.isnan(results._margins_of_first(evaluation, 1)[1])
    assert math.isnan(results.margins_of(evaluation, "reward")[1])
    thirds = results._by_spread([evaluation] * 3, evaluation.preferences("overall"))
    assert [third["num"] for third in thirds] == [1, 1, 1]
    assert [third["mean"] for third in thirds] == [1.0, 1.0, 1.0]
    assert thirds[0]["spread"] == pytest.approx(0.5 * 2**0.5)


def test_noise_is_that_of_the_second_half(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A loss of 1, 3, 1, 3 changes by 2 a step: 2 / sqrt(2) / 2. Accuracies 0.6, 0.8 and 0.6, 0.6 of two seeds."""
    loss, accuracy = [[9.0] * 4 + [1, 3, 1, 3]] * 2, [[0.0, 0.0, 0.6, 0.8], [0.5, 0.5, 0.6, 0.6]]
    curves = {"train/loss": {"seeds": loss}, "val/preference_accuracy": {"seeds": accuracy}}
    monkeypatch.setattr(results, "_curves", lambda root, scale, paradigm: curves)
    found = results._noise(tmp_path, Scale(seeds=(0, 1)), "decoupled")
    assert found["loss_steps"] == pytest.approx(2**-0.5)
    assert found["accuracy_steps"] == pytest.approx(0.1 * 2**0.5 / 2)
    assert found["accuracy_seeds"] == pytest.approx(0.1 * 2**0.5 / 2)
    assert results._noise(tmp_path, Scale(seeds=(0, 1)), "decoupled_rl")["loss_steps"] is None


def test_the_page_says_what_an_interval_allows() -> None:
    better, worse, open_ = difference(0.1, 0.02, 0.2), difference(-0.1, -0.2, -0.02), difference(0.01, -0.1, 0.1)
    said = verdicts({"one": better, "two": worse, "three": open_, "ours": None})
    assert said == ("better than “one” (+0.100); worse than “two” (-0.100); not to be told apart from “three” (+0.010)")
    assert "right thoughts give better rewards" in claim("masked", better)
    assert "against the claim" in claim("masked", worse)
    assert "are not shown to give better rewards" in claim("masked", open_)
    thirds = [difference(0.8, 0.7, 0.9), difference(0.6, 0.5, 0.7), difference(0.5, 0.4, 0.6)]
    many = {"by_number": {"1": better, "2": better}, "all_minus_first": better, "by_spread": thirds}
    assert gain("ours", many) == (
        "“ours”: 2 thoughts against one, more accurate: +0.100 (+0.020 to +0.200). Their spread predicts errors: "
        "0.800 (0.700 to 0.900) where they agree most, 0.500 (0.400 to 0.600) where least."
    )
    assert "is not shown to predict errors" in gain("ours", many | {"by_spread": thirds[:2]})
