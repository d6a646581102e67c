"""The plan of decoding ahead: within the bound as far as it goes, and said aloud where one batch is too large."""

import ctypes
import multiprocessing
from typing import Any

import pytest
import torch

from data_modules.decode_ahead import DecodeAhead, most_bytes, plan
from descore.inputs.collate import PairCollator
from descore.types import Frames, Pair, Side
from descore.video.settings import VideoSettings


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
    with pytest.warns(UserWarning, match=r"takes 6\.0 GiB to build, but --data\.decoding\.ahead_gb allows 4\.0"):
        assert plan(8, batch_bytes=2 * 2**30, max_bytes=4 * 2**30) == DecodeAhead(1, 1)


def test_without_workers_nothing_is_decoded_ahead():
    assert plan(0, batch_bytes=2**40, max_bytes=1) == DecodeAhead(0, 0)


def kilobytes(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


def build(collate: PairCollator, num_pairs: int, pipe: Any) -> None:
    """Build a batch, and send what memory it took at most beyond what there was."""
    torch.set_num_threads(1)  # as in a worker: OpenMP's other threads did not come along
    pairs = [Pair(str(number), "a cat", Side("a"), Side("b"), (1.0,)) for number in range(num_pairs)]
    collate(0, pairs[:1])  # a forked process counts the code of libraries once it runs, more with torch for CUDA
    ctypes.CDLL(None).malloc_trim(0)  # memory that other tests have freed would be used, and not seen
    before = kilobytes("VmRSS")
    collate(0, pairs)
    pipe.send((kilobytes("VmHWM") - before) * 1024)


@pytest.mark.parametrize("keep_frames", [False, True])
def test_a_worker_holds_what_the_plan_takes_it_to_hold(qwen3, keep_frames):
    video = VideoSettings(max_frames=32, max_pixels=256 * 256)

    def read(path: str) -> Frames:
        return Frames(torch.full((32, 3, 256, 256), 7, dtype=torch.uint8), tuple(range(0, 96, 3)), 24.0, 96)

    ours, theirs = multiprocessing.Pipe()
    collate = PairCollator(qwen3.processor, read=read, keep_frames=keep_frames)
    process = multiprocessing.get_context("fork").Process(target=build, args=(collate, 6, theirs))
    process.start()
    taken = ours.recv() / most_bytes(6, video, keep_frames=keep_frames)
    process.join()
    planned = DecodeAhead(1, 1).num_batches()
    assert planned / 2.2 < taken < planned * 1.2  # what the tokens take is not planned
