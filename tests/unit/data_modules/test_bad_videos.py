"""Pairs whose videos cannot be read: what takes their place, and when a run has had enough of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Trainer

from data_modules.bad_videos import BadVideo, BadVideos, TolerantReader
from data_modules.decode_ahead import DecodeAhead
from data_modules.loader import PairLoader
from data_modules.options import OnBad
from data_modules.preference import PreferencePairDataModule
from descore.types import Pair, Side
from descore.video.checks import VideoError
from tests.helpers.examples import make_frames
from tests.helpers.fitting import data, system, trainer


def pairs(count: int, bad: Sequence[int] = ()) -> list[Pair]:
    return [
        Pair(str(index), "", Side("good.mp4"), Side("bad.mp4" if index in bad else "good.mp4"), (1.0,))
        for index in range(count)
    ]


class Collate:
    """Hands out the ids of pairs; the video of a pair shows that it was read for that pair."""

    def frames(self, pair: Pair) -> Any:
        for side in (pair.a, pair.b):
            if side.video == "bad.mp4":
                raise VideoError(side.video, "it is bad")
        return make_frames(2, 16, 16), pair.id

    def __call__(self, epoch: int, chosen: Sequence[Pair], frames: Any = None) -> Any:
        frames = frames or [self.frames(pair) for pair in chosen]
        assert [seen for _, seen in frames] == [pair.id for pair in chosen]
        return SimpleNamespace(ids=[pair.id for pair in chosen])


def read(count: int, bad: Sequence[int], **options: Any) -> tuple[list[list[str]], list[tuple[int, list[str]]]]:
    """Ids by batch of an epoch, and what the loader told of each."""
    told: list[tuple[int, list[str]]] = []
    source = PairLoader(
        pairs(count, bad),
        Collate(),
        watch=lambda num_videos, found: told.append((num_videos, [one.pair for one in found])),
        **{"batch_size": 3, "shuffle": True, "on_bad_video": "skip", **options},
    )
    return [batch.ids for batch in islice(iter(source), len(source))], told


def test_by_default_a_bad_video_is_an_error() -> None:
    with pytest.raises(VideoError, match=r"bad\.mp4: it is bad"):
        read(6, [2], on_bad_video="error")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skip_leaves_out_the_pair_and_nothing_else(num_workers: int) -> None:
    whole, _ = read(10, [])
    batches, told = read(10, [2, 7], ahead=DecodeAhead(num_workers, 2))
    assert batches == [[name for name in batch if name not in {"2", "7"}] for batch in whole]
    assert [count for count, _ in told] == [6, 6, 6, 2]
    assert sorted(name for _, found in told for name in found) == ["2", "7"]


def test_replace_fills_every_batch_by_epoch_and_pair_alone() -> None:
    whole, _ = read(10, [])
    batches, _ = read(10, [2, 7], on_bad_video="replace", ahead=DecodeAhead(2, 2))
    assert [len(batch) for batch in batches] == [len(batch) for batch in whole]
    assert not {"2", "7"} & {name for batch in batches for name in batch}
    kept = zip(batches, whole, strict=True)
    assert all({*batch} >= {*before} - {"2", "7"} and len({*batch}) == len(batch) for batch, before in kept)
    assert batches == read(10, [2, 7], on_bad_video="replace")[0]
    assert batches != read(10, [2, 7], on_bad_video="replace", seed=1)[0]


def test_another_epoch_draws_other_replacements() -> None:
    """Of one pair among a hundred others, in ten epochs."""
    tolerant = TolerantReader(pairs(101, [7]), Collate(), replaces=True, may_be_empty=False)
    drawn = [tolerant(epoch, [7])[0].ids[0] for epoch in range(10)]
    assert len(set(drawn)) > 5
    assert drawn == [tolerant(epoch, [7])[0].ids[0] for epoch in range(10)]


def test_a_training_batch_is_never_empty_and_an_empty_one_of_validation_is_left_out() -> None:
    """One pair a batch: the rank of a bad one has to step with the others."""
    whole, _ = read(6, [], batch_size=1)
    batches, _ = read(6, [3], batch_size=1)
    (place,) = [index for index, batch in enumerate(whole) if batch == ["3"]]
    assert batches[:place] + batches[place + 1 :] == whole[:place] + whole[place + 1 :]
    assert batches[place] in [[name] for name in "01245"]
    validated, told = read(6, [3], batch_size=1, shuffle=False)
    assert validated == [["0"], ["1"], ["2"], ["4"], ["5"]]
    assert told[3] == (2, ["3"])


def test_when_nothing_can_be_read_the_first_reason_is_told() -> None:
    with pytest.raises(VideoError, match=r"it is bad; and no other pair could replace"):
        read(4, range(4))


def test_a_run_fails_when_more_is_bad_than_the_budget_allows(tmp_path: Path) -> None:
    """2 % of 100 videos: two may be bad, and of the next hundred two more."""
    file = tmp_path / "bad_videos.jsonl"
    account = BadVideos(0.02, 100, file)
    bad = [BadVideo(f"{index}.mp4", "cut off", f"p{index}") for index in range(5)]
    with pytest.warns(UserWarning, match=r"'p0' is left out: 0\.mp4: cut off") as told:
        account.count(10, bad[:2])
    assert len(told) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        account.count(140, bad[:1])  # each video is told once
    with (
        pytest.warns(UserWarning, match=r"2\.mp4"),
        pytest.raises(ValueError, match=r"4 of 160 videos .*budget 0\.02 allows 3.*jsonl.*2\.mp4: cut off"),
    ):
        account.count(10, bad[2:3])
    assert [json.loads(line)["video"] for line in file.read_text().splitlines()] == ["0.mp4", "1.mp4", "2.mp4"]
    with pytest.warns(UserWarning, match=r"3\.mp4") as told:
        BadVideos(1.0, 100, file).count(10, bad[:4])
    assert len(told) == 1, "a run that goes on knows what was listed"


def fit(world: Path, folder: Path, **options: Any) -> Trainer:
    """Two epochs of three pairs and a validation of three, where the second video of each table is cut off."""
    source: Any = data(world)
    tables = {name: str(table) for name, table in source.val.items()}
    runner = trainer(folder, max_epochs=2)
    module = PreferencePairDataModule(source.train, tables, batch_size=2, val_batch_size=2, num_workers=0, **options)
    runner.fit(system(world), module)
    return runner


def test_a_run_goes_on_without_a_damaged_file_and_lists_it(world: Path, tmp_path: Path) -> None:
    cut = world / "train/videos/train-00003-b.mp4"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.warns(UserWarning, match="'train-00003' is left out"):
            runner = fit(world, tmp_path, on_bad=OnBad(video_budget=0.1))
        assert runner.global_step == 12
        (line,) = (tmp_path / "run/version_0/bad_videos.jsonl").read_text().splitlines()
        assert json.loads(line)["video"] == str(cut)
        with pytest.warns(UserWarning, match="train-00003"), pytest.raises(ValueError, match=r"1 of .*0\.01 allows 0"):
            fit(world, tmp_path)
    finally:
        cut.write_bytes(whole)
