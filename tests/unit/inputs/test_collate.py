"""A batch of pairs: what is masked and when, what lies where, and labels that fit the model."""

import math
from dataclasses import replace

import pytest
import torch

from descore.inputs.collate import PairCollator
from descore.inputs.processor import Processor
from descore.types import Pair, PairBatch, Prefix, Side
from descore.video.checks import VideoError
from tests.helpers.examples import make_frames

LONG, SHORT = "The circle is red.", "ok"


@pytest.fixture
def quick(build, monkeypatch) -> Processor:
    """Processor that decode nothing and give every video the same prefix."""
    processor = build().processor
    frames = make_frames(2, 16, 16)
    prefix = processor.prefix("a cat", frames)
    monkeypatch.setattr(processor, "read", lambda path: frames)
    monkeypatch.setattr(processor, "prefix", lambda prompt, frames: prefix)
    return processor


def make_pair(name: str, a: str = "a.mp4", b: str = "b.mp4") -> Pair:
    return Pair(name, "a red circle", Side(a, LONG), Side(b, SHORT), (1.0,))


def masked_ids(batch: PairBatch) -> set[str]:
    return {pair.id for pair, masked in zip(batch.pairs, batch.masked.tolist(), strict=True) if masked}


PAIRS = [make_pair(f"pair-{index}") for index in range(400)]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_pairs_are_masked_as_often_as_asked(quick, probability):
    """Over 400 pairs, and over 400 epochs of one pair: within 4 standard errors, 0.09 at 0.3."""
    collate = PairCollator(quick, mask_prob=probability)
    bound = 4 * math.sqrt(probability * (1 - probability) / 400)
    assert abs(collate(0, PAIRS).masked.float().mean() - probability) <= bound
    epochs = [collate(epoch, PAIRS[:1]).masked.item() for epoch in range(400)]
    assert abs(sum(epochs) / 400 - probability) <= bound


def test_a_mask_goes_by_epoch_and_pair_alone(quick):
    collate = PairCollator(quick, mask_prob=0.5)
    together = masked_ids(collate(3, PAIRS))
    assert 0 < len(together) < 400
    assert masked_ids(collate(3, PAIRS[::-1])) == together
    alone = set().union(*(masked_ids(collate(3, [pair])) for pair in PAIRS[:40]))
    assert alone == together & {pair.id for pair in PAIRS[:40]}
    assert masked_ids(PairCollator(quick, mask_prob=0.5)(3, PAIRS)) == together
    assert masked_ids(collate(4, PAIRS)) != together
    assert masked_ids(PairCollator(quick, mask_prob=0.5, seed=1)(3, PAIRS)) != together


def test_a_mask_takes_the_thoughts_of_both_videos(quick):
    long, short = (len(quick.thought(text).token_ids) + 1 for text in (LONG, SHORT))
    batch = PairCollator(quick, mask_prob=0.5)(0, PAIRS[:8])
    assert len(set(batch.masked.tolist())) == 2
    a, b = batch.branches.layout.branch_lengths[:8], batch.branches.layout.branch_lengths[8:]
    assert [lengths == (1,) for lengths in a] == batch.masked.tolist()
    assert a == tuple((1,) if masked else (long,) for masked in batch.masked.tolist())
    assert b == tuple((1,) if masked else (short,) for masked in batch.masked.tolist())


def test_both_gives_every_video_a_branch_with_its_thought_and_one_without(quick):
    long, short = (len(quick.thought(text).token_ids) + 1 for text in (LONG, SHORT))
    batch = PairCollator(quick, masking="both", mask_prob=1.0)(0, PAIRS[:2])
    assert batch.branches.layout.branch_lengths == ((long, 1), (long, 1), (short, 1), (short, 1))
    assert not batch.masked.any()


def test_thoughts_can_be_left_out(quick):
    batch = PairCollator(quick, thoughts=False)(0, PAIRS[:2])
    assert batch.branches.layout.branch_lengths == ((1,),) * 4
    assert not len(batch.branches.target_ids)


def test_the_videos_a_come_first_then_the_videos_b(build, clips):
    processor = build().processor
    pairs = [make_pair("1", clips[0], clips[1]), replace(make_pair("2", clips[2], clips[3]), prompt="a longer prompt")]
    batch = PairCollator(processor, keep_frames=True)(0, pairs)
    sides = [(pairs[0], pairs[0].a), (pairs[1], pairs[1].a), (pairs[0], pairs[0].b), (pairs[1], pairs[1].b)]
    prefixes: list[Prefix] = [processor.prefix(pair.prompt, processor.read(side.video)) for pair, side in sides]
    thoughts = [[processor.thought(side.thought)] for _, side in sides]
    expected = processor.pack(prefixes, thoughts)
    assert len({tuple(grid) for grid in expected.grids.tolist()}) > 2, "the videos can be told apart"
    for name in ("input_ids", "position_ids", "query_index", "target_ids", "patches", "grids"):
        assert torch.equal(getattr(batch.branches, name), getattr(expected, name)), name
    assert batch.branches.layout == expected.layout
    assert [len(frames.pixels) for frames in batch.frames] == [2 * grid[0] for grid in expected.grids.tolist()]
    assert PairCollator(processor)(0, pairs).frames == ()


def test_labels_have_one_column_per_reward(build, quick, monkeypatch):
    processor = build(reward_names=("motion", "look")).processor
    for name in ("read", "prefix"):
        monkeypatch.setattr(processor, name, getattr(quick, name))
    nan = float("nan")
    rated = Pair("1", "x", Side("a", mos=(3.0, 4.0)), Side("b", mos=(1.0, 2.0)), (1.0, -1.0))
    unrated = Pair("2", "x", Side("a"), Side("b"), (0.0, nan))
    batch = PairCollator(processor)(0, [rated, unrated, unrated])
    assert batch.preference.dtype == batch.mos.dtype == torch.float32
    torch.testing.assert_close(
        batch.preference, torch.tensor([[1.0, -1.0], [0.0, nan], [0.0, nan]]), rtol=0, atol=0, equal_nan=True
    )
    expected = torch.tensor([[[3.0, 4.0], [nan, nan], [nan, nan]], [[1.0, 2.0], [nan, nan], [nan, nan]]])
    torch.testing.assert_close(batch.mos, expected, rtol=0, atol=0, equal_nan=True)
    assert batch.masked.shape == (3,)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (
            replace(make_pair("p7"), preference=(1.0, -1.0)),
            r"pair 'p7' has 2 labels \(1\.0, -1\.0\).*1 rewards \('overall',\)",
        ),
        (replace(make_pair("p8"), b=Side("b", mos=(1.0, 2.0, 3.0))), r"pair 'p8' has 3 labels"),
    ],
)
def test_another_number_of_labels_than_of_rewards_is_refused(quick, pair, reason):
    with pytest.raises(ValueError, match=reason):
        PairCollator(quick)(0, [PAIRS[0], pair])


def test_a_video_that_cannot_be_read_is_named(qwen3, clips):
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        PairCollator(qwen3.processor)(0, [make_pair("1", clips[0], "gone.mp4")])
