"""Real folders, real processes, real kills: what comes from the cache is what decoding gives, or it does not come."""

import multiprocessing
import os
import pickle
import random
import resource
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from descore.types import Frames
from descore.video import frame_cache
from descore.video.checks import VideoError
from descore.video.frame_cache import FrameCache
from descore.video.frames import VideoReader
from descore.video.settings import VideoSettings
from descore.video.writer import write_video

READER = VideoReader(VideoSettings(fps=4.0, min_pixels=1024, max_pixels=48 * 48), factor=16, even=2)
SIDE = 64
ENTRY = 4 * 3 * SIDE * SIDE + 176
"""Bytes of an entry of `Reads`, with its header."""


class Reads:
    """Frames that depend on the bytes of the file alone; counts what it read."""

    def __init__(self, side: int = SIDE) -> None:
        self.side = side
        self.paths: list[str] = []

    def __call__(self, path: str) -> Frames:
        self.paths.append(Path(path).name)
        seed = int(Path(path).read_text())
        shape = (4, 3, self.side, self.side)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        return Frames(pixels, (0, 8, 16, 23), 24000 / 1001, 24)


def same(one: Frames, other: Frames) -> bool:
    fields = [(each.indices, each.source_fps, each.num_source_frames, each.times) for each in (one, other)]
    return fields[0] == fields[1] and torch.equal(one.pixels, other.pixels)


def stored(folder: Path) -> int:
    """Bytes of all entries; an entry that goes meanwhile has none."""
    total = 0
    for path in entries(folder):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.mp4" for name in "abcdefgh"]
    for seed, path in enumerate(paths):
        path.write_text(str(seed))
    return [str(path) for path in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_hit_is_the_same_to_the_bit(tmp_path, folder):
    levels = torch.arange(16, dtype=torch.uint8)[:, None, None, None] * 12 + 20
    write_video(tmp_path / "clip.mp4", levels.expand(16, 3, 96, 96), fps=8)
    read = READER(str(tmp_path / "clip.mp4"))
    missed, hit = (FrameCache(READER, READER, folder, 10**6)(str(tmp_path / "clip.mp4")) for _ in range(2))
    assert same(missed, read)
    assert same(hit, read)
    assert hit.pixels.dtype == torch.uint8
    assert len(entries(folder)) == 1


def test_times_of_a_variable_rate_are_kept(files, folder):
    frames = Frames(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), (0, 7), 24000 / 1001, 8, (0.0, 1 / 7))
    cache = FrameCache(lambda path: frames, READER, folder, 10**6)
    assert same(cache(files[0]), frames)
    assert same(FrameCache(Reads(), READER, folder, 10**6)(files[0]), frames)


def test_a_video_is_read_once_by_name_and_again_when_it_or_the_settings_change(monkeypatch, files, folder):
    read = Reads()
    cache = FrameCache(read, READER, folder, 10**6)
    monkeypatch.chdir(Path(files[0]).parent)
    first = cache(files[0])
    assert same(cache("a.mp4"), first)
    assert same(pickle.loads(pickle.dumps(cache))(files[0]), first)
    assert read.paths == ["a.mp4"]

    Path(files[0]).write_text("7")  # as many bytes as before
    assert same(cache(files[0]), Reads()(files[7]))
    assert len(read.paths) == 2
    for reader in (
        VideoReader(VideoSettings(fps=2.0), 16, 2),
        VideoReader(READER.settings, 32, 2),
        VideoReader(READER.settings, 16, 1),
    ):
        FrameCache(read, reader, folder, 10**6)(files[0])
    monkeypatch.setattr(frame_cache, "_code_version", lambda: "the next version")
    cache(files[0])
    assert len(read.paths) == 6


def test_the_least_recently_used_go_when_the_folder_is_full(files, folder):
    read = Reads()
    cache = FrameCache(read, READER, folder, int(4.5 * ENTRY))
    for path in files[:4]:
        cache(path)
    assert stored(folder) == 4 * ENTRY
    cache(files[0])
    cache(files[4])  # 0.9 * 4.5 entries are 4.05: b goes, the one that nobody asked for longest
    assert len(entries(folder)) == 4
    for path in [files[0], *files[2:5]]:
        cache(path)
    assert read.paths == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"]
    cache(files[1])
    assert read.paths[5:] == ["b.mp4"]


def test_what_is_larger_than_the_limit_drives_nothing_out(files, folder):
    FrameCache(Reads(), READER, folder, 2 * ENTRY)(files[0])
    kept = entries(folder)
    FrameCache(Reads(side=128), VideoReader(READER.settings, 32, 2), folder, 2 * ENTRY)(files[1])
    assert entries(folder) == kept


def test_a_new_limit_and_a_lost_number_are_taken_from_the_folder(files, folder):
    for path in files[:5]:
        FrameCache(Reads(), READER, folder, 10**6)(path)
    cache = FrameCache(Reads(), READER, folder, int(3.5 * ENTRY))
    (folder / "stored_bytes").write_bytes(b"")
    cache(files[5])
    assert len(entries(folder)) == 3


def test_failures_are_not_kept(tmp_path, folder):
    count = []

    def read(path: str) -> Frames:
        count.append(path)
        raise VideoError(path, "expected a video")

    (tmp_path / "bad.mp4").touch()
    cache = FrameCache(read, READER, folder, 10**6)
    for path in ("bad.mp4", "bad.mp4", "missing.mp4", "nu\0ll.mp4"):
        with pytest.raises(VideoError, match="expected a video"):
            cache(str(tmp_path / path))
    assert len(count) == 4
    assert not entries(folder)


def test_a_file_that_changes_while_it_is_read_is_not_kept(files, folder):
    def read(path: str) -> Frames:
        frames = Reads()(path)
        Path(path).write_text("1000")
        return frames

    FrameCache(read, READER, folder, 10**6)(files[0])
    assert not entries(folder)


def damage(entry: Path, kind: str) -> None:
    data = bytearray(entry.read_bytes())
    if kind == "pixel":
        data[-100] ^= 1
    elif kind == "index":
        place = data.index(b"23]")
        data[place : place + 2] = b"22"
    elif kind == "type":
        data[data.index(b'"U8"') : data.index(b'"U8"') + 4] = b'"I8"'
    entry.write_bytes({"empty": b"", "cut": data[:-1], "text": b"not a tensor"}.get(kind, bytes(data)))


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "pixel", "index", "type"])
def test_damaged_entries_are_replaced(files, folder, kind):
    read = Reads()
    cache = FrameCache(read, READER, folder, 10**6)
    frames = cache(files[0])
    whole = entries(folder)[0].read_bytes()
    damage(entries(folder)[0], kind)
    assert same(cache(files[0]), frames)
    assert entries(folder)[0].read_bytes() == whole
    cache(files[0])
    assert len(read.paths) == 2


@contextmanager
def full_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_reading_goes_on_when_nothing_can_be_written(files, folder):
    read = Reads()
    cache = FrameCache(read, READER, folder, 10**6)
    cache(files[0])
    with full_disk(), pytest.warns(UserWarning, match="decoded each time") as caught:
        found = [cache(path) for path in files[:4] * 2]
    assert all(same(frames, Reads()(path)) for frames, path in zip(found, files[:4] * 2, strict=True))
    assert len(caught) == 1
    assert str(folder) in str(caught[0].message)
    assert len(read.paths) == 1 + 6  # a was there
    assert not list(folder.glob("*.tmp"))


def use_at_once(files: list[str], folder: Path, limit: int, seed: int) -> None:
    cache, order = FrameCache(Reads(), READER, folder, limit), random.Random(seed)
    for _ in range(60):
        path = order.choice(files)
        assert same(cache(path), Reads()(path))
        assert stored(folder) <= limit


@pytest.mark.parametrize("room", [4.5, 100.0])
def test_processes_share_a_folder(files, folder, room):
    context, limit = multiprocessing.get_context("fork"), int(room * ENTRY)
    workers = [context.Process(target=use_at_once, args=(files, folder, limit, seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert stored(folder) == 8 * ENTRY if room > 8 else stored(folder) >= 3 * ENTRY
    assert not list(folder.glob("*.tmp"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in files:
            assert same(FrameCache(Reads(), READER, folder, limit)(path), Reads()(path))


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def save_half(path: Path, frames: Frames, save=frame_cache._save) -> None:
    save(path, frames)
    os.truncate(path, path.stat().st_size // 2)
    die()


@pytest.mark.parametrize(
    ("owner", "name", "end"),
    [(frame_cache, "_save", save_half), (FrameCache, "_admit", die), (Path, "replace", die)],
    ids=["half written", "written", "counted"],
)
def test_a_kill_in_the_middle_of_a_write_leaves_nothing_that_is_read(files, folder, monkeypatch, owner, name, end):
    read = Reads()
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, end)
        worker = multiprocessing.get_context("fork").Process(
            target=FrameCache(read, READER, folder, 10**9), args=files[:1]
        )
        worker.start()
        worker.join()
    assert worker.exitcode == -signal.SIGKILL
    (draft,) = folder.glob("*.tmp")
    for path in files:
        assert same(FrameCache(read, READER, folder, 10**9)(path), Reads()(path))
    assert read.paths == [Path(path).name for path in files]
    os.utime(draft, (0, 0))
    FrameCache(read, READER, folder, 10**9)
    assert not list(folder.glob("*.tmp"))
