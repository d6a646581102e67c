"""A run goes on from the newest checkpoint that is whole, whatever has become of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from descore.runtime.checkpoints import (
    METADATA,
    SUMS,
    AtomicCheckpointIO,
    CheckpointError,
    check_bytes,
    save_summed,
    sum_of,
)
from descore.runtime.resume import find_checkpoint

WEIGHTS = {"weight": torch.arange(50_000.0)}


def state(step: int, *, half_accumulated: bool = False) -> dict:
    progress = {"optimizer": {"step": {"total": {"completed": step}}}}
    loops = {"fit_loop": {"epoch_loop.automatic_optimization.optim_progress": progress}}
    return {"global_step": step, "loops": loops, "half_accumulated": half_accumulated}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "version_0/checkpoints"


def write_file(path: Path, step: int, **more: bool) -> Path:
    AtomicCheckpointIO().save_checkpoint(state(step, **more) | {"state_dict": WEIGHTS}, path)
    return path


def write_shards(path: Path, step: int) -> Path:
    save({"state_dict": WEIGHTS}, checkpoint_id=path, no_dist=True)
    save_summed(state(step) | {SUMS: {file.name: sum_of(file) for file in path.iterdir()}}, path / METADATA)
    return path


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999])
def test_a_file_that_is_cut_is_passed_over(tmp_path, checkpoints, share):
    good = write_file(checkpoints / "best.ckpt", 4)
    cut(write_file(checkpoints / "last.ckpt", 8), share)
    with pytest.warns(UserWarning, match=r"skipping a checkpoint that does not load: .*last\.ckpt"):
        assert find_checkpoint(tmp_path).path == good


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", METADATA])
def test_a_folder_of_which_something_is_cut_is_passed_over(tmp_path, checkpoints, name, share):
    good = write_file(checkpoints / "best.ckpt", 4)
    bad = write_shards(checkpoints / "last.ckpt", 8)
    assert find_checkpoint(tmp_path).path == bad
    cut(bad / name, share)
    with pytest.warns(UserWarning, match=r"skipping a checkpoint that does not load: .*last\.ckpt"):
        assert find_checkpoint(tmp_path).path == good


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", METADATA])
def test_a_folder_of_which_something_is_missing_is_passed_over(tmp_path, checkpoints, name):
    good = write_shards(checkpoints / "best.ckpt", 4)
    (write_shards(checkpoints / "last.ckpt", 8) / name).unlink()
    with pytest.warns(UserWarning, match=r"skipping a checkpoint that does not load: .*last\.ckpt"):
        assert find_checkpoint(tmp_path).path == good


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_a_flipped_byte_in_a_file_is_found_and_named(tmp_path, checkpoints, share):
    good = write_file(checkpoints / "best.ckpt", 4)
    bad = write_file(checkpoints / "last.ckpt", 8)
    flip(bad, int(bad.stat().st_size * share))
    with pytest.warns(UserWarning, match=r"skipping a checkpoint that does not load: .*last\.ckpt is damaged"):
        assert find_checkpoint(tmp_path).path == good
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
        AtomicCheckpointIO().load_checkpoint(bad)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", METADATA])
def test_a_flipped_byte_in_a_folder_is_found_and_named(tmp_path, checkpoints, name, share):
    good = write_shards(checkpoints / "best.ckpt", 4)
    bad = write_shards(checkpoints / "last.ckpt", 8)
    flip(bad / name, int((bad / name).stat().st_size * share))
    with pytest.warns(UserWarning, match=r"skipping a checkpoint that does not load: .*last\.ckpt"):
        assert find_checkpoint(tmp_path).path == good


def test_a_flip_of_any_byte_is_found(checkpoints):
    path = write_file(checkpoints / "last.ckpt", 8)
    size = path.stat().st_size
    check_bytes(path)
    for place in [*range(0, 400), *range(400, size - 400, 4999), *range(size - 400, size)]:
        flip(path, place)
        with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
            check_bytes(path)
        flip(path, place)


def test_a_checkpoint_of_another_program_has_no_sum_and_is_read(tmp_path, checkpoints):
    checkpoints.mkdir(parents=True)
    torch.save(state(8) | {"state_dict": WEIGHTS}, checkpoints / "last.ckpt")
    assert find_checkpoint(tmp_path).path == checkpoints / "last.ckpt"


def test_where_none_is_whole_the_run_does_not_start_over_by_itself(tmp_path, checkpoints):
    cut(write_file(checkpoints / "last.ckpt", 8), 0.5)
    with pytest.raises(ValueError, match=r"expected a checkpoint that loads in .*Remove it to start a new run"):
        find_checkpoint(tmp_path)


def test_drafts_are_no_checkpoints_and_what_was_set_aside_is_one(tmp_path, checkpoints):
    write_file(checkpoints / "last.ckpt", 4).rename(checkpoints / ".last.ckpt.partial")
    assert find_checkpoint(tmp_path) is None
    aside = write_shards(checkpoints / "last.ckpt", 8).rename(checkpoints / ".last.ckpt.old")
    assert find_checkpoint(tmp_path).path == aside


def test_a_checkpoint_without_the_gradients_it_would_need_comes_last(tmp_path, checkpoints):
    half = write_file(checkpoints / "best.ckpt", 8, half_accumulated=True)
    assert find_checkpoint(tmp_path).path == half
    good = write_file(checkpoints / "last.ckpt", 4)
    assert find_checkpoint(tmp_path).path == good


def test_the_last_version_counts(tmp_path, checkpoints):
    write_file(checkpoints / "last.ckpt", 8)
    newer = write_file(tmp_path / "version_10/checkpoints/last.ckpt", 2)
    found = find_checkpoint(tmp_path)
    assert (found.path, found.version, found.global_step, found.logged_step) == (newer, 10, 2, 2)


def test_versions_are_numbers(tmp_path):
    for version in (2, 9, 10):
        write_file(tmp_path / f"version_{version}/checkpoints/last.ckpt", version)
    found = find_checkpoint(tmp_path)
    assert (found.version, found.global_step) == (10, 10)


def test_what_is_no_version_is_passed_over(tmp_path, checkpoints):
    good = write_file(checkpoints / "last.ckpt", 8)
    for name in ("version_x5", "version_", "version_-1", "version_\u00b2", "version_05"):
        write_file(tmp_path / name / "checkpoints/last.ckpt", 9)
    (tmp_path / "version_3").write_text("a file")
    (tmp_path / "version_4/checkpoints").mkdir(parents=True)
    assert find_checkpoint(tmp_path).path == good


def test_a_checkpoint_that_lacks_what_is_read_of_it_is_named(tmp_path, checkpoints):
    AtomicCheckpointIO().save_checkpoint({"global_step": 9, "state_dict": WEIGHTS}, checkpoints / "best.ckpt")
    with pytest.raises(
        ValueError, match=r"expected a checkpoint that loads.*best\.ckpt \(KeyError: 'half_accumulated'\)"
    ):
        find_checkpoint(tmp_path)
    last = write_file(checkpoints / "last.ckpt", 3)
    with pytest.warns(UserWarning, match=r"best\.ckpt \(KeyError"):
        assert find_checkpoint(tmp_path).path == last
