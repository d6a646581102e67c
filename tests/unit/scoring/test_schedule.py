"""The order of scoring: dear videos first, and shards of about equal cost."""

import pytest

from descore.scoring.schedule import costs_of, order_batches, take_shard, total_cost
from descore.video.settings import VideoSettings


def test_a_cost_is_what_the_model_sees_of_a_video(clips):
    settings = VideoSettings(fps=8, min_frames=2, max_frames=20, min_pixels=256, max_pixels=2000)
    # 16 frames of 48x32; 20 of the 24 of 32x64, shrunk to 2000 px; 8 of 32x32; 16 of 48x48, shrunk
    assert costs_of(clips, settings) == [24, 40, 8, 32]


def test_a_file_without_a_header_costs_nothing(clips, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    costs = costs_of([str(tmp_path / "text.mp4"), "gone.mp4", clips[0]], VideoSettings())
    assert costs[:2] == [0, 0]
    assert costs[2] > 0


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_shards_are_whole_batches_each_once_and_about_as_dear(num_shards):
    costs = [(7 * index) % 40 + 1 for index in range(100)]
    batches = order_batches(costs, 4)
    shards = [take_shard(batches, costs, (index, num_shards)) for index in range(1, num_shards + 1)]
    assert sorted(batch for shard in shards for batch in shard) == sorted(batches)
    spent = [sum(total_cost(costs, batch) for batch in shard) for shard in shards]
    assert max(spent) - min(spent) <= max(total_cost(costs, batch) for batch in batches)


def test_the_first_shard_is_1_and_has_the_dearest_batch():
    """Costs of 9, 8 and 7: the first batch to shard 1, the second to shard 2, and so the third."""
    shards = [take_shard([[0], [1], [2]], [9, 8, 7], (index, 2)) for index in (1, 2)]
    assert shards == [[[0]], [[1], [2]]]


def test_every_batch_but_the_last_of_a_shard_is_full():
    costs = list(range(10))
    for index in (1, 2):
        sizes = [len(batch) for batch in take_shard(order_batches(costs, 4), costs, (index, 2))]
        assert all(size == 4 for size in sizes[:-1])
