"""The plan of decoding ahead: within the bound as far as it goes, and said aloud where one batch is too large."""

import pytest

from data_modules.decode_ahead import DecodeAhead, most_bytes, plan
from descore.video import VideoSettings


def test_a_batch_is_two_videos_a_pair_at_a_byte_a_value():
    video = VideoSettings(max_frames=10, max_pixels=5000, min_pixels=100)
    assert most_bytes(3, video) == 3 * 2 * 10 * 3 * 5000
    assert most_bytes(3, video, keep_frames=True) == 2 * most_bytes(3, video)


@pytest.mark.parametrize("num_workers", [1, 2, 8])
@pytest.mark.parametrize("room", [3, 4, 9, 16, 24, 31, 32, 100])
def test_what_is_held_stays_within_the_bound_and_no_worker_too_many_is_dropped(num_workers, room):
    ahead = plan(num_workers, batch_bytes=10, max_bytes=10 * room)
    assert 1 <= ahead.num_workers <= num_workers
    assert ahead.num_batches() <= room
    if ahead.num_workers < num_workers:
        assert DecodeAhead(ahead.num_workers + 1, 1).num_batches() > room


def test_a_batch_that_does_not_fit_is_decoded_alone_and_said():
    with pytest.warns(UserWarning, match=r"takes 6\.0 GiB to build, and data\.decode_ahead_gb allows 4\.0"):
        assert plan(8, batch_bytes=2 * 2**30, max_bytes=4 * 2**30) == DecodeAhead(1, 1)


def test_without_workers_nothing_is_decoded_ahead():
    assert plan(0, batch_bytes=2**40, max_bytes=1) == DecodeAhead(0, 0)
