"""Our functions against what the published code gives on the same inputs; the commits are in published_values.json."""

import json
from pathlib import Path

import pytest
import torch

from descore.losses import Labels, PairLossName, mean_over_usable, pair_loss
from descore.metrics import preference_accuracy

PUBLISHED = json.loads(Path(__file__).with_name("published_values.json").read_text(encoding="utf-8"))
PUBLISHED_INVALID = 22


def stage1() -> tuple[torch.Tensor, torch.Tensor, Labels]:
    published = PUBLISHED["stage1"]
    preference = [float("nan") if label == PUBLISHED_INVALID else label for label in published["label"]]
    labels = Labels(*(torch.tensor(column) for column in (preference, published["score_a"], published["score_b"])))
    return torch.tensor(published["reward_a"]), torch.tensor(published["reward_b"]), labels


NAMES: list[tuple[PairLossName, str]] = [
    ("bradley_terry", "bt"),
    ("rao_kupper", "btt"),
    ("margin", "margin"),
    ("constant_margin", "constant_margin"),
    ("scaled", "scaled"),
]


@pytest.mark.parametrize(("ours", "theirs"), NAMES)
def test_stage1_loss_of_each_pair(ours, theirs):
    reward_a, reward_b, labels = stage1()
    published = torch.tensor(PUBLISHED["stage1"]["per_pair"][theirs])
    torch.testing.assert_close(pair_loss(ours)(reward_a, reward_b, labels), published, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), NAMES)
def test_stage1_mean_is_over_the_pairs_that_count(ours, theirs):
    """Of the 7 pairs 2 are ties and 1 is invalid: 4 count, 6 where ties do. The published mean divides by 7."""
    reward_a, reward_b, labels = stage1()
    loss = pair_loss(ours)
    mean = mean_over_usable(loss(reward_a, reward_b, labels), loss.usable(labels))
    num_usable = 6 if ours == "rao_kupper" else 4
    published = sum(PUBLISHED["stage1"]["per_pair"][theirs]) / num_usable
    assert mean.item() == pytest.approx(published, rel=1e-5)


@pytest.mark.parametrize("published", PUBLISHED["ties"], ids=lambda published: f"{len(published['human'])} pairs")
def test_accuracy_with_and_without_ties(published):
    """The published sweep lacks only the threshold below all margins, which calls right what counts without ties."""
    ours = preference_accuracy(published["margin"], published["human"])
    assert ours.without_ties == pytest.approx(published["without_ties"], abs=1e-12)
    calling_no_ties = ours.without_ties * ours.num_decided / ours.num_pairs
    assert ours.with_ties == pytest.approx(max(published["with_ties"], calling_no_ties), abs=1e-12)
