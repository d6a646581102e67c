"""Videos on remote storage and in tar files: the frames of the same file here, or an error that names the URL."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from data_modules import remote
from data_modules.remote import RemoteVideos, video_state
from descore.tables.locations import locate
from descore.tables.pairs import read_pairs
from descore.types import Frames
from descore.video.checks import VideoError
from descore.video.frame_cache import FrameCache
from descore.video.frames import VideoReader
from descore.video.settings import VideoSettings

READER = VideoReader(VideoSettings(fps=4.0, min_pixels=256, max_pixels=1024), factor=16, even=2)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Wait for nothing between attempts."""
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    yield storage
    storage.store.clear()


@pytest.fixture
def read(tmp_path) -> RemoteVideos:
    return RemoteVideos(READER, str(tmp_path))


def write_tar(path: Path, clips: list[str], mode: str = "w") -> bytes:
    with tarfile.open(path, mode) as archive:
        for clip in clips:
            archive.add(clip, Path(clip).name)
    return path.read_bytes()


def same(one: Frames, other: Frames) -> bool:
    return torch.equal(one.pixels, other.pixels) and one.indices == other.indices


def test_a_video_is_the_same_wherever_it_lies(clips, memory, read, tmp_path):
    packed = write_tar(tmp_path / "clips.tar", clips)
    memory.pipe("/bucket/clips.tar", packed)
    for clip in clips:
        name, expected = Path(clip).name, READER(clip)
        memory.pipe(f"/bucket/{name}", Path(clip).read_bytes())
        places = (
            clip,
            f"file://{clip}",
            f"memory://bucket/{name}",
            f"tar://{name}::{tmp_path}/clips.tar",
            f"tar://{name}::memory://bucket/clips.tar",
        )
        assert all(same(read(place), expected) for place in places)
    assert not list(tmp_path.glob("*.tmp")), "temporary files are gone"


def test_of_a_tar_file_the_member_is_read_and_its_list_is_kept(clips, memory, tmp_path, monkeypatch):
    memory.pipe("/bucket/clips.tar", write_tar(tmp_path / "clips.tar", clips))
    asked = []
    whole = MemoryFileSystem.cat_file
    monkeypatch.setattr(
        MemoryFileSystem,
        "cat_file",
        lambda self, path, start, end: asked.append(end - start) or whole(self, path, start, end),
    )
    RemoteVideos(READER, str(tmp_path))("tar://0.mp4::memory://bucket/clips.tar")
    assert asked == [os.path.getsize(clips[0])]
    remote._members.cache_clear()  # as in a new process
    monkeypatch.setattr(remote, "_list_members", None)
    RemoteVideos(READER, str(tmp_path))("tar://1.mp4::memory://bucket/clips.tar")
    assert asked[1:] == [os.path.getsize(clips[1])]


def fail(times: int, error: type[Exception]) -> Callable[..., None]:
    """A get_file of a storage that fails so many times."""
    get_file, left = MemoryFileSystem.get_file, [times]

    def get(self, *args, **options):
        left[0] -= 1
        if left[0] >= 0:
            raise error("no answer")
        return get_file(self, *args, **options)

    return get


class StorageError(Exception):
    """Of no kind that Python knows, as those of cloud storages are."""


@pytest.mark.parametrize("error", [ConnectionResetError, StorageError])
def test_what_fails_is_tried_again(clips, memory, read, monkeypatch, error):
    memory.pipe("/bucket/0.mp4", Path(clips[0]).read_bytes())
    monkeypatch.setattr(MemoryFileSystem, "get_file", fail(2, error))
    assert same(read("memory://bucket/0.mp4"), READER(clips[0]))
    monkeypatch.setattr(MemoryFileSystem, "get_file", fail(3, error))
    with pytest.raises(
        VideoError, match=rf"^memory://bucket/0\.mp4: cannot be fetched \({error.__name__}: no answer\)"
    ):
        read("memory://bucket/0.mp4")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://bucket/gone.mp4", "cannot be fetched .FileNotFoundError"),
        ("tar://gone.mp4::{here}/clips.tar", "expected a member of the tar file; it has 4 members"),
        ("tar://0.mp4::{here}/gone.tar", "cannot be fetched .FileNotFoundError"),
        ("tar://0.mp4::{here}/clips.tar.gz", "cannot be fetched .ReadError"),
        ("memory://bucket/text.mp4", "got a file that begins with b'no video'"),
    ],
)
def test_an_error_names_the_url(clips, memory, read, tmp_path, url, reason):
    write_tar(tmp_path / "clips.tar", clips)
    write_tar(tmp_path / "clips.tar.gz", clips, "w:gz")
    memory.pipe("/bucket/text.mp4", b"no video")
    url = url.format(here=tmp_path)
    with pytest.raises(VideoError, match=reason) as caught:
        read(url)
    assert caught.value.path == url


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_what_no_attempt_can_mend_is_tried_once(clips, memory, read, monkeypatch, error):
    memory.pipe("/bucket/0.mp4", Path(clips[0]).read_bytes())
    monkeypatch.setattr(MemoryFileSystem, "get_file", fail(1, error))
    with pytest.raises(VideoError, match=error.__name__):
        read("memory://bucket/0.mp4")


def test_the_cache_takes_remote_videos_once_and_anew_when_they_change(clips, memory, tmp_path):
    fetched = []

    def decode(path: str) -> Frames:
        fetched.append(path)
        return READER(path)

    (tmp_path / "cache").mkdir()
    read = RemoteVideos(decode, str(tmp_path / "cache"))
    cache = FrameCache(read, READER, tmp_path / "cache", 10**8, identify=video_state)
    url, member = "memory://bucket/a.mp4", "tar://1.mp4::memory://bucket/clips.tar"
    memory.pipe("/bucket/a.mp4", Path(clips[0]).read_bytes())
    memory.pipe("/bucket/clips.tar", write_tar(tmp_path / "clips.tar", clips))
    for _ in range(2):
        assert same(cache(url), READER(clips[0]))
        assert same(cache(member), READER(clips[1]))
    assert len(fetched) == 2
    memory.pipe("/bucket/a.mp4", Path(clips[2]).read_bytes())
    assert same(cache(url), READER(clips[2]))
    memory.rm("/bucket/a.mp4")
    with pytest.raises(VideoError, match=r"a\.mp4: cannot be fetched"):
        cache(url)


def test_the_paths_of_a_table_may_be_urls(clips, tmp_path):
    write_tar(tmp_path / "clips.tar", clips)
    table = tmp_path / "t.csv"
    table.write_text(
        "id,prompt,video_a,video_b,preference\n"
        "1,a cat,tar://0.mp4::clips.tar,s3://bucket/b.mp4,A\n"
        "2,a cat,tar://0.mp4::gone.tar,s3://bucket/b.mp4,A\n"
    )
    found = read_pairs(table, on_bad_row="skip")
    (pair,), (bad,) = found.pairs, found.rejected
    assert (pair.a.video, pair.b.video) == (f"tar://0.mp4::{tmp_path}/clips.tar", "s3://bucket/b.mp4")
    assert bad.reason == "video not found"
    assert same(RemoteVideos(READER)(pair.a.video), READER(clips[0]))


def test_scoring_refuses_urls(qwen3, memory, clips):
    memory.pipe("/bucket/0.mp4", Path(clips[0]).read_bytes())
    with pytest.raises(VideoError, match="expected a local file, got a URL"):
        qwen3.processor.read("memory://bucket/0.mp4")


def test_a_path_from_the_root_stays_as_it_is():
    assert locate("s3://bucket/t.parquet", "/data/a.mp4") == "/data/a.mp4"
    assert locate("t.csv", "gs://b/a.mp4") == "gs://b/a.mp4"
