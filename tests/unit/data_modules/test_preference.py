"""The DataModule hands its options to loaders, readers and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_modules.loader import PairLoader
from data_modules.options import Cache, Decoding, OnBad
from data_modules.preference import PreferencePairDataModule
from data_modules.remote import RemoteVideos
from descore.inputs.prompts import PromptError
from descore.tables.pairs import read_pairs
from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from descore.video.frame_cache import FrameCache

NUM_PAIRS = 9


@pytest.fixture
def table(tmp_path: Path) -> str:
    sides = [Side(str(tmp_path / f"{index}.mp4")) for index in range(2)]
    for side in sides:
        Path(side.video).touch()
    write_pairs(tmp_path / "pairs.jsonl", [Pair(f"p{i}", "a bar", *sides, (1.0,)) for i in range(NUM_PAIRS)])
    return str(tmp_path / "pairs.jsonl")


@pytest.fixture
def load(table, qwen3, tmp_path):
    """Set up a DataModule in a run of some ranks."""

    def make(rank: int = 0, world_size: int = 1, **options: Any) -> PreferencePairDataModule:
        data = PreferencePairDataModule(table, {"val": table, "ood": table}, **{"num_workers": 0} | options)
        module = SimpleNamespace(model=qwen3, collator=lambda training, read: (training, read))
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        ranks = {"global_rank": rank, "world_size": world_size}
        data.trainer = SimpleNamespace(lightning_module=module, strategy=strategy, log_dir=str(tmp_path), **ranks)
        data.setup("fit")
        return data

    return make


def order_of(loader: PairLoader) -> list[str]:
    loader.dataset.collate = lambda epoch, pairs: [pair.id for pair in pairs]
    loader.dataset.tolerant = None
    return [name for batch in loader for name in batch]


def test_the_order_of_an_epoch_goes_by_the_seed(load):
    orders = [order_of(load(seed=seed).train_dataloader()) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_the_options_of_the_training_loader(load):
    data = load(1, 2, batch_size=3, decoding=Decoding(timeout=7.0), on_bad=OnBad(video="error"), num_workers=1)
    loader = data.train_dataloader()
    assert (loader.batch_size, loader.shuffle, loader.rank, loader.world_size) == (3, True, 1, 2)
    assert (loader.timeout, loader.ahead.num_workers, loader.dataset.tolerant) == (7.0, 1, None)
    assert loader.dataset.collate[0] is True
    for bad in ("skip", "replace"):
        assert load(on_bad=OnBad(video=bad)).train_dataloader().dataset.tolerant.replaces == (bad == "replace")


def test_validation_keeps_the_order_and_takes_the_first_pairs_of_every_table(load):
    data = load(max_val_pairs=5, val_batch_size=2)
    loaders = data.val_dataloader()
    assert data.val_names == ("val", "ood")
    assert [order_of(loader) for loader in loaders] == [[f"p{index}" for index in range(5)]] * 2
    assert {(loader.batch_size, loader.shuffle, loader.dataset.collate is None) for loader in loaders} == {
        (2, False, False)
    }


def test_what_is_fitted_on_is_the_same_on_every_rank(load):
    for rank in range(2):
        loader = load(rank, 2, val_batch_size=2).fitting_dataloader(3)
        assert order_of(loader) == ["p0", "p1", "p2"]


def test_workers_decode_no_further_ahead_than_the_memory_allows(load):
    """A batch of one pair takes 2 videos * 6 frames * 3 * 1024 pixels; 8 workers hold 32 of them at two each."""
    batch = 2 * 6 * 3 * 1024
    enough, half = (
        load(batch_size=1, num_workers=8, decoding=Decoding(32 * batch * share / 2**30)) for share in (1, 0.5)
    )
    assert enough.train_dataloader().ahead.num_batches() == 32
    assert half.train_dataloader().ahead.num_batches() <= 16


def test_frames_are_cached_where_a_folder_is_named(load, tmp_path):
    _, read = load().train_dataloader().dataset.collate
    assert isinstance(read, RemoteVideos)
    _, read = load(cache=Cache(str(tmp_path / "cache"), max_gb=2.0)).train_dataloader().dataset.collate
    assert isinstance(read, FrameCache)
    assert (read.folder, read.max_bytes) == (tmp_path / "cache/frames", 2 * 2**30)


def test_bad_videos_have_the_budget_of_the_run(load):
    data = load(on_bad=OnBad(video_budget=0.25))
    assert data.bad_videos.budget == 0.25
    assert data.bad_videos.num_videos == 2 * 3 * NUM_PAIRS, "of training and of both validation tables"


@pytest.mark.parametrize("bad", ["error", "skip"])
def test_a_bad_row_stops_the_run_or_is_left_out(load, table, bad):
    with Path(table).open("a") as file:
        file.write(
            '{"id": "odd", "prompt": "a bar", "video_a": "0.mp4", "video_b": "1.mp4", "preference": "neither"}\n'
        )
    if bad == "error":
        with pytest.raises(ValueError, match="neither"):
            load(on_bad=OnBad(row=bad))
    else:
        assert len(load(on_bad=OnBad(row=bad)).train_pairs) == NUM_PAIRS


def test_a_prompt_beyond_the_models_limit_is_a_bad_row_before_the_first_step(load, table, tmp_path):
    pairs = list(read_pairs(table).pairs)
    pairs[3] = replace(pairs[3], prompt="bar " * 3000)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    with pytest.raises(
        PromptError, match=r"pair 'p3': expected a prompt of at most 2048 tokens.*--data.on_bad.row skip"
    ):
        load().train_dataloader()
    left = order_of(load(on_bad=OnBad(row="skip")).train_dataloader())
    assert sorted(left) == sorted(pair.id for pair in pairs if pair.id != "p3")
