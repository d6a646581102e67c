"""A file or folder is replaced whole or not at all, wherever a kill falls."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from descore import atomic as folders
from descore.atomic import check_writable, complete_path, draft_of, replace, sweep, write_whole

STEPS = [
    (os, "fsync"),
    (folders, "_exchange"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "unlink"),
    (shutil, "rmtree"),
]


def write(target: Path, version: int) -> None:
    draft = draft_of(target)
    if target.suffix == ".folder":
        folders.remove(draft)
        draft.mkdir()
        for name in ("a", "b"):
            (draft / name).write_text(str(version))
    else:
        draft.write_text(str(version))
    replace(draft, target)


def read(target: Path) -> set[str]:
    found = complete_path(target)
    return {path.read_text() for path in (found / "a", found / "b")} if found.is_dir() else {found.read_text()}


def kills(monkeypatch: pytest.MonkeyPatch, target: Path) -> Iterator[None]:
    """Write version 2 of a target in one process after the other, each killed one step later than the one before."""
    for last in count(1):
        child = os.fork()
        if not child:
            _kill_at(monkeypatch, last)
            write(target, 2)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            assert last > 4, "the steps that were to be killed at were not taken"
            return
        yield


def _kill_at(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    steps = count(1)

    def killing(real):
        def step(*args, **kwargs):
            if next(steps) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return step

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, killing(getattr(owner, name)))


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two_renames"])
@pytest.mark.parametrize("name", ["x.folder", "x.file"])
def test_a_kill_at_any_step_leaves_one_version_whole(tmp_path, monkeypatch, name, exchange):
    if not exchange:  # as on a filesystem that cannot
        monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    target = tmp_path / name
    write(target, 1)
    for _ in kills(monkeypatch, target):
        assert read(target) in ({"1"}, {"2"})
        sweep(tmp_path)
        assert read(target) in ({"1"}, {"2"}), "what is swept is not needed"
        write(target, 1)
        assert [path.name for path in tmp_path.iterdir()] == [name]
    assert read(target) == {"2"}


def test_a_folder_is_never_away_where_the_filesystem_can_exchange(tmp_path, monkeypatch):
    target = tmp_path / "x.folder"
    write(target, 1)
    for _ in kills(monkeypatch, target):
        assert target.is_dir()
        write(target, 1)


def test_a_file_and_a_folder_take_each_others_place(tmp_path):
    target = tmp_path / "x.folder"
    write(target, 1)
    draft_of(target).write_text("file")
    replace(draft_of(target), target)
    assert target.read_text() == "file"
    write(target, 2)
    assert read(target) == {"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.folder"]


def test_what_was_set_aside_is_kept_until_the_next_one_is_there(tmp_path):
    """A process that was killed between its two renames leaves the folder under another name, and maybe a draft."""
    target = tmp_path / "run/x.folder"
    target.parent.mkdir()
    write(target, 1)
    target.rename(target.with_name(".x.folder.old"))
    draft_of(target).mkdir()
    sweep(tmp_path)
    assert {path.name for path in target.parent.iterdir()} == {".x.folder.old"}
    assert read(target) == {"1"}
    write(target, 2)
    assert {path.name for path in target.parent.iterdir()} == {"x.folder"}


def test_the_disk_has_files_before_they_get_their_name_and_then_the_name(tmp_path, monkeypatch):
    """The file, or the folder with what is in it, is flushed before it takes its place; its parent after that."""
    done = []
    rename = Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(Path(f"/proc/self/fd/{number}").readlink().name))
    monkeypatch.setattr(Path, "replace", lambda path, target: done.append("rename") or rename(path, target))
    write(tmp_path / "x.file", 1)
    assert done == [".x.file.partial", "rename", tmp_path.name]
    done.clear()
    write(tmp_path / "x.folder", 1)
    assert sorted(done[:3]) == [".x.folder.partial", "a", "b"]
    assert done[3:] == ["rename", tmp_path.name]


def test_a_version_that_was_replaced_is_swept_away_and_the_only_one_is_not(tmp_path):
    for name in (".gone.old", ".there.old", "there", ".draft.partial"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".gone.old", "there"}


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_whole(file := tmp_path / "scores.json", "old\n")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(OSError, match="the disk is gone"):
            write_whole(file, "new\n")
    assert file.read_bytes() == b"old\n"
    write_whole(file, "new\r\n")
    sweep(tmp_path)
    assert file.read_bytes() == b"new\r\n", "line ends are as they were given"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    """Below a file, not even root can."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/run cannot be written to: .*choose another folder"):
        check_writable(tmp_path / "file/run")
    check_writable(tmp_path / "new/run")
    assert not list((tmp_path / "new/run").iterdir())
