"""A save that is killed or fails leaves the checkpoint before it, and nothing else that stays."""

import errno
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from descore.runtime.checkpoints import AtomicCheckpointIO


def save(path: Path, value: float) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.full((1000,), value)}}, path)


def weight(path: Path) -> float:
    return float(AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["state_dict"]["weight"].float().mean())


def test_a_checkpoint_is_written_into_a_new_folder_and_replaced(tmp_path):
    path = tmp_path / "checkpoints/last.ckpt"
    for value in (1, 2):
        save(path, value)
        assert weight(path) == value
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "pathlib.Path.replace"])
def test_a_kill_at_any_moment_leaves_the_checkpoint_before(tmp_path, monkeypatch, moment):
    path = tmp_path / "last.ckpt"
    save(path, 1)
    child = os.fork()
    if not child:
        monkeypatch.setattr(moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        save(path, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert weight(path) == 1
    save(path, 3)
    assert weight(path) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"], "what the kill left is gone"


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")]
)
def test_a_full_disk_is_an_error_that_keeps_the_checkpoint_before(tmp_path, monkeypatch, failure):
    path = tmp_path / "last.ckpt"
    save(path, 1)

    def fail(_checkpoint: object, file: Path) -> None:
        file.write_bytes(b"half a checkpoint")
        raise failure

    monkeypatch.setattr(torch, "save", fail)
    message = r"last\.ckpt could not be written: it needs at least 8,000 bytes, .* were free; the previous one"
    with pytest.raises(OSError, match=message):
        save(path, 2)
    monkeypatch.undo()
    assert weight(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_file_that_cannot_grow_is_an_error_that_keeps_the_checkpoint_before(tmp_path):
    """A real write that fails, in a process that may write no more than a part of it."""
    path = tmp_path / "last.ckpt"
    save(path, 1)
    before = path.read_bytes()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            save(path, 2)
        except OSError as error:
            os._exit(0 if f"{path} could not be written: it needs at least 8,000 bytes" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_that_is_removed_is_no_checkpoint_at_any_moment(tmp_path, monkeypatch):
    folder = tmp_path / "old.ckpt"
    folder.mkdir()
    (folder / "shard").touch()
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: None)
    AtomicCheckpointIO().remove_checkpoint(folder)
    assert [path.name for path in tmp_path.iterdir()] == [".old.ckpt.partial"]
