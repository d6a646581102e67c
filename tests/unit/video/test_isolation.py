"""Real child processes that hang, crash and are killed: it costs the file, and leaves nothing behind."""

import atexit
import gc
import json
import multiprocessing
import os
import pickle
import re
import resource
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from descore import Scorer
from descore.types import Frames
from descore.video import frames as video
from descore.video import isolation as decoding
from descore.video.checks import VideoError
from descore.video.frames import VideoReader
from descore.video.isolation import IsolatedReader
from descore.video.settings import VideoSettings
from descore.video.writer import write_video

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts processes and files by /proc")

OTHERS: set[int] = set()
"""Processes that belong to models of other tests."""
FORK = multiprocessing.get_context("fork")
READER = VideoReader(VideoSettings(fps=4.0, min_pixels=1024, max_pixels=48 * 48), factor=16, even=2)


def make(value: int, side: int = 8) -> Frames:
    return Frames(torch.full((2, 3, side, side), value, dtype=torch.uint8), (0, 7), 24000 / 1001, 8, (0.0, value / 7))


def hang_in_the_interpreter() -> None:
    re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter, so that no thread and no handler runs


ENDS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(600),
    "loop": hang_in_the_interpreter,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
}


def read(path: str) -> Frames:
    """Frames of the number that a path ends in; other paths say what becomes of who reads them."""
    kind = Path(path).stem.rpartition("_")[2]
    if kind in ENDS:
        ENDS[kind]()
    if not kind.isdigit():
        raise VideoError(path, f"expected a number, got {kind!r}")
    return make(int(kind))


def say(value: object) -> None:
    """Let the child say something."""
    raise VideoError("", json.dumps(value))


def heard(decode: IsolatedReader, path: str = "") -> object:
    with pytest.raises(VideoError) as error:
        decode(path)
    return json.loads(error.value.reason)


def children(pid: int | str = "self") -> set[int]:
    """The living child processes of all threads of a process."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return found - OTHERS


def is_dead(pid: int) -> bool:
    """Whether a process has ended, be it waited for or not."""
    try:
        return re.search(r"State:\s([ZX])", Path(f"/proc/{pid}/status").read_text()) is not None
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    """Every test ends with the processes and open files it began with."""
    gc.collect()
    OTHERS.clear()
    OTHERS.update(children())
    files = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()  # an error that was caught holds the frames that it went through, and so a decoder
    wait_until(lambda: not children() and len(os.listdir("/proc/self/fd")) <= files)


# Reading


def test_frames_are_those_of_reading_directly_to_the_bit(clips):
    decode = IsolatedReader(READER)
    for decoder in (decode, pickle.loads(pickle.dumps(decode))):
        for path in clips:
            ours, direct = decoder(path), READER(path)
            assert torch.equal(ours.pixels, direct.pixels)
            assert replace(ours, pixels=None) == replace(direct, pixels=None)


def test_frames_of_any_size_follow_each_other_and_stay():
    decode = IsolatedReader(lambda path: make(int(path), side=int(path)))
    sides = [16, 200, 3, 199, 201]
    frames = [decode(str(side)) for side in sides]
    frames[0].pixels.zero_()
    for side, seen in zip(sides[1:], frames[1:], strict=True):
        assert torch.equal(seen.pixels, make(side, side).pixels)


def test_there_is_no_child_where_forks_are_not_safe(monkeypatch):
    monkeypatch.setattr(decoding.sys, "platform", "darwin")
    assert heard(IsolatedReader(lambda path: say(os.getpid()))) == os.getpid()


def test_one_child_serves_and_others_join_for_other_threads():
    decode = IsolatedReader(lambda path: say(os.getpid()))
    pids = {heard(decode) for _ in range(5)}
    assert pids == children()

    decode = IsolatedReader(read)
    with ThreadPoolExecutor(4) as pool:
        paths = [f"clip_{number}" for number in range(100)]
        values = [int(frames.pixels[0, 0, 0, 0]) for frames in pool.map(decode, paths)]
    assert values == list(range(100))
    left = children() - pids
    assert 1 <= len(left) <= 4
    assert torch.equal(decode("clip_7").pixels, make(7).pixels)  # a child outlives the thread that made it
    assert children() - pids == left


def test_a_child_that_waits_longer_than_a_video_may_take_still_serves():
    decode = IsolatedReader(lambda path: say(os.getpid()), seconds=0.2)
    first = heard(decode)
    time.sleep(0.4)
    assert heard(decode) == first


# Refusing


def test_errors_arrive_as_they_were_raised():
    decode = IsolatedReader(read)
    with pytest.raises(VideoError) as error:
        decode("clip_text")
    assert (error.value.path, error.value.reason) == ("clip_text", "expected a number, got 'text'")
    pids = children()
    with pytest.raises(VideoError, match=r"cannot be read \(IndexError: list index out of range\)"):
        IsolatedReader(lambda path: [][0])("a.mp4")
    assert decode("clip_1")
    assert children() == pids


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("sleep", r"took more than 0\.3 s"),
        ("loop", r"took more than 0\.3 s"),
        ("segfault", "process died .signal 11, Segmentation fault"),
        ("abort", "process died .signal 6, Aborted"),
        ("killed", "process died .signal 9, Killed"),
        ("exit", "process died .exit code 3"),
    ],
)
def test_a_file_that_hangs_or_crashes_costs_that_file(tmp_path, kind, reason):
    tries = tmp_path / "tries"

    def read_and_count(path: str) -> Frames:
        with tries.open("a") as file:
            file.write("x")
        return read(path)

    decode = IsolatedReader(read_and_count, seconds=0.3)
    bad = tmp_path / f"clip_{kind}"
    bad.touch()
    with pytest.raises(VideoError, match=reason) as first:
        decode(str(bad))
    assert first.value.path == str(bad)
    assert "refused until it changes" in first.value.reason
    assert not children()
    assert torch.equal(decode("clip_5").pixels, make(5).pixels)
    with pytest.raises(VideoError, match=reason):
        decode(str(bad))
    assert tries.read_text() == "xx"
    bad.write_text("another file")
    with pytest.raises(VideoError, match=reason):
        decode(str(bad))
    assert tries.read_text() == "xxx"


def test_memory_is_limited():
    decode = IsolatedReader(lambda path: make(len(bytes(int(path))) % 256), memory_gb=0.25)
    with pytest.raises(VideoError, match=r"needs more than 0\.25 GiB"):
        decode(str(2**29))
    assert decode(str(2**24))


def test_a_child_that_died_between_two_files_is_replaced():
    decode = IsolatedReader(read)
    decode("clip_1")
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_dead(pid))
    assert torch.equal(decode("clip_2").pixels, make(2).pixels)
    assert children() != {pid}


def test_a_crash_is_told_where_nobody_can_wait_for_children(tmp_path):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as some launchers leave it
    try:
        decode = IsolatedReader(read)
        with pytest.raises(VideoError, match="the decoder process died"):
            decode(str(tmp_path / "clip_segfault"))
        assert decode("clip_1")
        del decode
    finally:
        signal.signal(signal.SIGCHLD, before)


# Processes


def test_signals_to_the_job_do_not_end_a_child():
    decode = IsolatedReader(lambda path: time.sleep(0.5) or make(3))
    with ThreadPoolExecutor(1) as pool:
        frames = pool.submit(decode, "a.mp4")
        wait_until(children)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            os.kill(next(iter(children())), number)
        assert torch.equal(frames.result().pixels, make(3).pixels)


def test_a_child_has_one_thread_no_core_dumps_and_none_of_the_parents_files(tmp_path):
    ends = os.pipe()
    others = [IsolatedReader(read) for _ in range(3)]
    for number, decode in enumerate(others):
        decode(f"clip_{number}")

    def look(path: str) -> Frames:
        limit = resource.getrlimit(resource.RLIMIT_CORE)
        return say([len(os.listdir("/proc/self/fd")), torch.get_num_threads(), limit])

    with open(tmp_path / "log.txt", "w") as log:
        log.write("once ")  # not flushed yet: who flushes a copy of it writes it twice
        torch.set_num_threads(2)
        decode = IsolatedReader(look)
        assert heard(decode) == [5, 1, [0, 0]]  # the standard three, its socket, and the listing itself
        torch.set_num_threads(1)
        del decode, others
    assert (tmp_path / "log.txt").read_text() == "once "
    for end in ends:
        os.close(end)


def test_what_the_parent_has_not_collected_yet_closes_no_file_of_the_child(tmp_path):
    (tmp_path / "clip.txt").touch()

    def read_after_a_collection(path: str) -> Frames:
        files = [open(path) for _ in range(100)]  # noqa: SIM115
        gc.collect()
        return make(sum(len(file.read()) for file in files))

    gc.disable()
    try:
        cycle: list[object] = [open(os.devnull) for _ in range(20)]  # noqa: SIM115
        cycle.append(cycle)
        del cycle
        assert IsolatedReader(read_after_a_collection)(str(tmp_path / "clip.txt"))
    finally:
        gc.enable()


def test_a_memory_limit_that_is_in_force_stays():
    def limit_and_read() -> None:
        most = 2**30 * 12
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        assert IsolatedReader(read, memory_gb=100)("clip_1")

    worker = FORK.Process(target=limit_and_read)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    worker.close()


def test_a_copy_in_a_forked_process_has_a_child_of_its_own():
    decode = IsolatedReader(lambda path: say(os.getpid()))
    ours = heard(decode)

    def check(pipe: Connection) -> None:
        pipe.send([heard(decode), sorted(children())])

    here, there = FORK.Pipe()
    worker = FORK.Process(target=check, args=(there,))
    worker.start()
    theirs, own_children = here.recv()
    worker.join()
    assert own_children == [theirs]
    assert theirs != ours
    assert heard(decode) == ours
    worker.close()
    here.close()
    there.close()


def report(path: Path, pipe: Connection) -> None:
    """Leave one child idle and two that hang, then tell."""
    atexit.register(path.touch)
    decode = IsolatedReader(read, seconds=2)
    for kind in ("sleep", "loop"):
        threading.Thread(target=decode, args=(f"clip_{kind}",)).start()
    wait_until(lambda: len(children()) == 2)
    IsolatedReader.kept = IsolatedReader(read)
    IsolatedReader.kept("clip_1")
    pipe.send(sorted(children()))
    time.sleep(600)


def test_children_end_with_their_parent_and_those_that_hang_by_their_limit(tmp_path):
    here, there = FORK.Pipe()
    worker = FORK.Process(target=report, args=(tmp_path / "exit handlers ran", there))
    worker.start()
    pids = here.recv()
    assert len(pids) == 3
    worker.kill()
    worker.join()

    wait_until(lambda: all(map(is_dead, pids)), seconds=5)
    assert not list(tmp_path.iterdir())
    worker.close()
    here.close()
    there.close()


def test_hangs_and_crashes_pile_up_nothing(tmp_path):
    decode = IsolatedReader(read, seconds=0.05)
    decode("clip_0")
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for number in range(8):
        for kind in ("sleep", "segfault", "text"):
            with pytest.raises(VideoError):
                decode(str(tmp_path / f"{number}_{kind}"))
        decode(f"clip_{number}")
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before
    assert len(children()) == 1


# Where it is used


class Videos(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, paths: list[str], decode: IsolatedReader) -> None:
        self.paths = paths
        self.decode = decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        try:
            return self.decode(self.paths[index]).pixels
        except VideoError as error:
            return torch.tensor(-1 if "died" in error.reason else -2)


def test_workers_of_a_loader_outlive_bad_files_and_tell_later_ones(tmp_path):
    tries = tmp_path / "tries"

    def read_and_count(path: str) -> Frames:
        with tries.open("a") as file:
            file.write(f"{Path(path).stem} ")
        return read(path)

    paths = ["clip_1", "clip_segfault", "clip_2", "clip_sleep", "clip_3", "clip_4"]
    videos = Videos(paths, IsolatedReader(read_and_count, seconds=0.5))
    for _ in range(3):
        loader = DataLoader(videos, batch_size=None, num_workers=2, multiprocessing_context="fork")
        assert [int(item.flatten()[0]) for item in loader] == [1, -1, 2, -2, 3, 4]
    assert tries.read_text().split().count("clip_sleep") == 1
    assert tries.read_text().split().count("clip_segfault") == 1
    del loader


def test_features_and_scorers_outlive_bad_files(monkeypatch, tmp_path, build, clips):
    build().save_pretrained(tmp_path / "model")
    (tmp_path / "bad.mp4").touch()

    def crash(path: str, *arguments: object, **options: object) -> Frames:
        return ENDS["segfault"]() if path.endswith("bad.mp4") else whole(path, *arguments, **options)

    whole = video.read_video
    monkeypatch.setattr(video, "read_video", crash)
    scorer = Scorer(str(tmp_path / "model"), thoughts=False, device="cpu")
    scores = scorer.score([clips[0], str(tmp_path / "bad.mp4"), clips[1]], ["a circle"] * 3)
    assert scores[1].reward != scores[1].reward
    assert "process died (signal 11" in scores[1].error
    alone = scorer.score([clips[1]], ["a circle"])
    assert scores[2].reward == pytest.approx(alone[0].reward, abs=1e-5)


def test_the_training_process_reads_while_others_write(tmp_path):
    """Forks of a process whose threads are busy: no lock that was held at the fork stays locked in the child."""
    write_video(tmp_path / "clip.mp4", torch.zeros(8, 3, 32, 32, dtype=torch.uint8), fps=8)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            torch.randn(64, 64) @ torch.randn(64, 64)
            json.dumps([*range(1000)])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert IsolatedReader(READER, seconds=20)(str(tmp_path / "clip.mp4")).num_source_frames == 8
    finally:
        stop.set()
    for thread in threads:
        thread.join()


def test_threads_fork_one_after_the_other(tmp_path):
    """On Python 3.12 and up, filelock raises where a thread forks while another one does."""
    path = str(tmp_path / "clip.mp4")
    write_video(path, make(1, 48).pixels, 24)
    inside: list[int] = []
    most = 0

    def before() -> None:
        nonlocal most
        inside.append(os.getpid())
        most = max(most, inside.count(os.getpid()))
        time.sleep(0.02)

    def after() -> None:
        if os.getpid() in inside:
            inside.remove(os.getpid())

    os.register_at_fork(before=before, after_in_parent=after)
    reader = IsolatedReader(READER)
    with ThreadPoolExecutor(8) as threads:
        assert all(isinstance(frames, Frames) for frames in threads.map(reader, [path] * 16))
    assert most == 1
