"""The order of scoring: dear videos first, and shards of about equal cost."""

import pytest

from descore.scoring.schedule import count_tokens, order_batches, take_shard, total_cost
from descore.video.frames import VideoReader
from descore.video.settings import VideoSettings

SETTINGS = VideoSettings(fps=8, min_frames=2, max_frames=20, min_pixels=256, max_pixels=2000)
READER = VideoReader(SETTINGS, factor=16, even=2)


def test_a_cost_is_the_tokens_that_a_video_takes(clips, scorer):
    # 16 frames of 48x32; 20 of the 24 of 32x64, shrunk to 16x48; 8 of 32x32; 16 of 48x48, shrunk to 32x32
    assert count_tokens(clips, READER) == [8 * 3 * 2, 10 * 1 * 3, 4 * 2 * 2, 8 * 2 * 2]
    processor = scorer.model.processor
    for clip, count in zip(clips, count_tokens(clips, processor.video_reader), strict=True):
        ids = processor.prefix("a", processor.read(clip)).input_ids
        assert (ids == processor.backbone.config.video_token_id).sum() == count


def test_a_file_without_a_header_costs_nothing(clips, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    costs = count_tokens([str(tmp_path / "text.mp4"), "gone.mp4", clips[0]], READER)
    assert costs[:2] == [0, 0]
    assert costs[2] > 0


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_shards_are_whole_batches_each_once_and_about_as_dear(num_shards):
    costs = [(7 * index) % 40 + 1 for index in range(100)]
    batches = order_batches(costs, 120, 2)
    shards = [take_shard(batches, costs, (index, num_shards)) for index in range(1, num_shards + 1)]
    assert sorted(batch for shard in shards for batch in shard) == sorted(batches)
    spent = [sum(total_cost(costs, batch) for batch in shard) for shard in shards]
    assert max(spent) - min(spent) <= max(total_cost(costs, batch) for batch in batches)


def test_the_first_shard_is_1_and_has_the_dearest_batch():
    """Costs of 9, 8 and 7: the first batch to shard 1, the second to shard 2, and so the third."""
    shards = [take_shard([[0], [1], [2]], [9, 8, 7], (index, 2)) for index in (1, 2)]
    assert shards == [[[0]], [[1], [2]]]


def test_a_batch_is_full_and_never_overfull_but_for_a_video_that_is_too_long_alone():
    costs = [90, *range(10, 40, 3)]
    first, *batches = order_batches(costs, 80, 5)
    assert first == [0]
    totals = [sum(costs[index] + 5 for index in batch) for batch in batches]
    assert all(total <= 80 for total in totals)
    assert all(total + costs[after[0]] + 5 > 80 for total, after in zip(totals, batches[1:], strict=False))
    assert sorted(index for batch in batches for index in batch) == list(range(1, 11))
