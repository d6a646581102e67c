"""Scored tables: every row and column of the table, every field of the records, whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descore.scoring.folder import ScoringError
from descore.scoring.protocol import ScoringProtocol
from descore.scoring.reading import ItemReader
from descore.scoring.scorer import Scorer
from descore.scoring.table import FIELDS, TableScores, score_table
from descore.tables.formats import READERS, read_rows
from descore.tables.unscored import read_unscored
from descore.tables.writer import write_rows

ROWS = [
    {"id": "007", "prompt": "a bar, moving", "video_a": "0.mp4", "video_b": "1.mp4", "note": "x"},
    {"id": "8", "prompt": "a cat", "video_a": "2.mp4", "video_b": "gone.mp4", "note": ""},
    {"id": "9", "prompt": "", "video_a": "2.mp4", "video_b": "3.mp4", "note": "no prompt"},
    {"id": "10", "prompt": "a bar, moving", "video_a": "1.mp4", "video_b": "0.mp4", "note": "turned"},
]
PROTOCOL = ScoringProtocol(max_batch_tokens=700, thoughts=False)
"""Room for two videos of some ten tokens and their prompts, and not for three."""


@pytest.fixture
def folder(clips: list[str], tmp_path: Path) -> Path:
    for index, clip in enumerate(clips):
        shutil.copy(clip, tmp_path / f"{index}.mp4")
    return tmp_path


def score(export: str, table: Path, output: Path, **options: Any) -> TableScores:
    protocol = options.pop("protocol", PROTOCOL)
    read = read_unscored(table)
    return score_table(
        export, read, output, inputs=[str(table)], root=table.parent, protocol=protocol, device="cpu", **options
    )


def cells_of(table: Path) -> list[dict[str, Any]]:
    return [dict(row.cells) for row in read_rows(str(table))]


@pytest.mark.parametrize("suffix", list(READERS))
def test_a_scored_table_has_the_rows_and_every_field_of_the_records(export, folder, suffix):
    write_rows(table := folder / f"pairs{suffix}", ROWS)
    output = folder / f"scored{suffix}"
    scored = score(export, table, output)
    assert (scored.num_videos, scored.left, len(scored.failed)) == (8, 0, 3)
    assert not (folder / f"scored{suffix}.scores").exists()
    rows = cells_of(output)
    before = cells_of(table)
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == before
    assert list(rows[0]) == [*ROWS[0], *(f"{name}{side}" for side in ("_a", "_b") for name in FIELDS)]
    scorer = Scorer(export, device="cpu", thoughts=False)
    expected = scorer.score([folder / "0.mp4", folder / "1.mp4"], "a bar, moving")
    found = [float(rows[0]["reward_a"]), float(rows[0]["reward_b"])]
    assert found == pytest.approx([one.reward for one in expected], abs=1e-5)
    assert [float(rows[3]["reward_b"]), float(rows[3]["reward_a"])] == found, "the same videos, scored once"
    assert not rows[1]["reward_b"]
    assert "gone.mp4: cannot be opened" in rows[1]["error_b"]
    for side in ("_a", "_b"):
        assert not rows[2][f"reward{side}"]
        assert f"pairs{suffix}, data row 3" in rows[2][f"error{side}"]
        assert "column 'prompt': expected text, got" in rows[2][f"error{side}"]


def test_each_video_is_scored_once_per_prompt(export, folder, monkeypatch):
    read, read_one = [], ItemReader.read
    monkeypatch.setattr(ItemReader, "read", lambda *one: read.append(one) or read_one(*one))
    write_rows(table := folder / "pairs.csv", ROWS)
    score(export, table, folder / "scored.csv")
    assert len(read) == 4, "0.mp4 and 1.mp4 with one prompt, 2.mp4 and gone.mp4 with another"


@pytest.mark.parametrize("stop_after", range(4))
def test_a_run_that_is_stopped_resumes_and_ends_with_the_same_table(export, folder, monkeypatch, stop_after):
    write_rows(table := folder / "pairs.csv", ROWS)
    score(export, table, folder / "whole.csv")
    scored, score_batch = [], Scorer.score_batch

    def stop(self: Scorer, items: list[Any], *rest: Any) -> Iterator[Any]:
        for one in score_batch(self, items, *rest):
            if len(scored) == stop_after:
                raise KeyboardInterrupt
            scored.append(one)
            yield one

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            score(export, table, folder / "scored.csv")
    assert not (folder / "scored.csv").exists()
    again, read_one = [], ItemReader.read
    monkeypatch.setattr(ItemReader, "read", lambda *one: again.append(one) or read_one(*one))
    score(export, table, folder / "scored.csv")
    assert (folder / "scored.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert len(again) == 4 - stop_after // 2 * 2


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_shards_meet_in_one_table(export, folder, order):
    write_rows(table := folder / "pairs.csv", ROWS)
    score(export, table, folder / "whole.csv")
    first = score(export, table, folder / "scored.csv", shard=(order[0], 2))
    assert first.left == 2
    assert not (folder / "scored.csv").exists()
    assert score(export, table, folder / "scored.csv", shard=(order[1], 2)).left == 0
    assert (folder / "scored.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_a_shard_that_ends_with_another_reports_what_that_one_wrote(export, folder, monkeypatch):
    from descore.scoring import table as module

    write_rows(table := folder / "pairs.csv", ROWS)
    whole = score(export, table, folder / "scored.csv")
    monkeypatch.setattr(module, "score_videos", lambda folder, *_, **__: shutil.rmtree(folder))
    assert score(export, table, folder / "scored.csv").failed == whole.failed


def test_scores_of_another_request_are_not_resumed(export, folder, monkeypatch):
    write_rows(table := folder / "pairs.csv", ROWS)
    score(export, table, folder / "scored.csv", shard=(1, 2))
    with pytest.raises(
        ScoringError, match=r"scored\.csv\.scores holds scores of another request: thoughts is 1 and was 0"
    ):
        score(export, table, folder / "scored.csv", shard=(2, 2), protocol=ScoringProtocol())
    write_rows(table, ROWS[1:])
    with pytest.raises(ScoringError, match="table_digest is"):
        score(export, table, folder / "scored.csv", shard=(2, 2))


def test_new_cells_of_the_same_videos_are_written(export, folder):
    write_rows(table := folder / "pairs.csv", ROWS)
    score(export, table, folder / "scored.csv", shard=(1, 2))
    write_rows(table, [row | {"note": "new"} for row in ROWS])
    score(export, table, folder / "scored.csv", shard=(2, 2))
    assert {row["note"] for row in cells_of(folder / "scored.csv")} == {"new"}


@pytest.mark.parametrize(
    "name", ["pairs.csv", "0.mp4", "folder.csv", "labels.csv", "labels.jsonl", "broken.json", "scored"]
)
def test_an_output_that_would_replace_something_else_is_refused(export, folder, monkeypatch, name):
    write_rows(table := folder / "pairs.csv", ROWS)
    (folder / "folder.csv").mkdir()
    (folder / "labels.csv").write_text("id,label\n1,A\n")
    (folder / "labels.jsonl").write_text("")
    (folder / "broken.json").write_text("{")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(Scorer, "__init__", None)
    with pytest.raises(ScoringError, match=name):
        score(export, table, folder / name)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_scored_table_is_replaced_but_not_scored_over(export, folder):
    write_rows(table := folder / "pairs.csv", ROWS[:1])
    score(export, table, folder / "scored.csv")
    before = (folder / "scored.csv").read_bytes()
    score(export, table, folder / "scored.csv")
    assert (folder / "scored.csv").read_bytes() == before
    with pytest.raises(ScoringError, match="the table has the columns reward_a, rewards_a, thought_a"):
        score(export, folder / "scored.csv", folder / "twice.csv")


def test_a_full_disk_loses_no_score(export, folder, monkeypatch):
    from descore.scoring import table as module

    write_rows(table := folder / "pairs.csv", ROWS[:1])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_rows", full)
        with pytest.raises(OSError, match="No space left"):
            score(export, table, folder / "scored.csv")
    monkeypatch.setattr(Scorer, "__init__", None)
    assert score(export, table, folder / "scored.csv").failed == []
    assert all(math.isfinite(float(row["reward_a"])) for row in cells_of(folder / "scored.csv"))


def test_rewards_and_thoughts_of_several_thoughts_are_json(export, folder):
    write_rows(table := folder / "videos.csv", [{"prompt": "a bar", "path": "0.mp4"}])
    score(export, table, folder / "scored.csv", protocol=ScoringProtocol(num_thoughts=2))
    (row,) = cells_of(folder / "scored.csv")
    (expected,) = Scorer(export, device="cpu").score(folder / "0.mp4", "a bar", num_thoughts=2)
    assert json.loads(row["each"]) == [one.to_json() for one in expected.each]
    assert float(row["reward_std"]) == expected.reward_std


def test_a_scored_table_in_another_folder_names_its_videos_from_there(export, folder, clips):
    rows = [{"prompt": "a bar", "video": "0.mp4"}, {"prompt": "a bar", "video": clips[1]}]
    write_rows(table := folder / "videos.csv", rows)
    score(export, table, output := folder / "results" / "scored.csv")
    assert [row["video"] for row in cells_of(output)] == ["../0.mp4", clips[1]]
    first, second = read_unscored(output).videos()
    assert (Path(first).resolve(), second) == ((folder / "0.mp4").resolve(), clips[1])
