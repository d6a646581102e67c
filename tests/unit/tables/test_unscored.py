"""The videos to score, from a table of any layout, and the reasons for those that cannot be."""

import json
import math
from pathlib import Path

import pytest

from descore.tables.unscored import VIDEO_COLUMNS, read_unscored
from tests.helpers.tables import write_csv, write_jsonl


@pytest.mark.parametrize("columns", VIDEO_COLUMNS)
def test_every_layout_keeps_its_cells_in_order(folder: Path, columns: tuple[str, ...]) -> None:
    row = {"note": "007", "prompt": "a cat", **{column: f"{column}.mp4" for column in columns}, "seed": "1"}
    table = read_unscored(write_csv(folder / "t.csv", [row]))
    (read,) = table.rows
    assert (table.columns, table.video_columns) == (tuple(row), columns)
    assert (list(read.cells.items()), read.number, read.line) == (list(row.items()), 1, 2)
    assert (read.prompt, read.errors) == ("a cat", {})
    assert read.videos == {column: str(folder / f"{column}.mp4") for column in columns}
    assert table.videos() == list(read.videos.values())


@pytest.mark.parametrize("prompt", [3, 2.5, True, math.nan, None, ["a"], {"a": 1}, "\ud800", "", " ", "\0"])
def test_a_bad_prompt_is_an_item_with_its_reason(folder: Path, prompt: object) -> None:
    rows = [{"prompt": prompt, "video_a": "a.mp4", "video_b": "b.mp4"}, {"prompt": "p", "video_a": "a", "video_b": "b"}]
    bad, good = read_unscored(write_jsonl(folder / "t.jsonl", rows)).rows
    assert (bad.videos, bad.prompt, list(bad.errors)) == ({}, "", ["video_a", "video_b"])
    assert "t.jsonl, data row 1 (line 1 of the file), column 'prompt': expected " in bad.errors["video_a"]
    assert len(good.videos) == 2


def test_a_bad_video_fails_alone(folder: Path) -> None:
    rows = [{"prompt": "p", "video_a": 5, "video_b": "b.mp4"}]
    (row,) = read_unscored(write_jsonl(folder / "t.jsonl", rows)).rows
    assert row.videos == {"video_b": str(folder / "b.mp4")}
    assert row.errors["video_a"].endswith("column 'video_a': expected text, got '5'")


def test_a_row_that_cannot_be_read_keeps_what_can_be(folder: Path) -> None:
    (folder / "t.csv").write_text("id,prompt,video\n1,p,a.mp4,more\n\n2,p\n,,\n3,p,a.mp4\n")
    rows = read_unscored(folder / "t.csv").rows
    assert [(row.number, row.line, row.cells["id"], len(row.videos)) for row in rows] == [
        (1, 2, "1", 0),
        (2, 4, "2", 0),
        (3, 6, "3", 1),
    ]
    assert "data row 2 (line 4 of the file), column '(all)': expected 3 cells" in rows[1].errors["video"]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["prompt", "film"], "found prompt, film"),
        (["text", "video"], "found text, video"),
        (["prompt", "video_a", "path_B"], "found prompt, video_a, path_B"),
        (["prompt", "video", "path"], "found prompt, video, path"),
    ],
)
def test_no_columns_or_too_many_are_refused(folder: Path, columns: list[str], found: str) -> None:
    table = write_csv(folder / "t.csv", [dict.fromkeys(columns, "x")])
    with pytest.raises(
        ValueError, match=rf"t\.csv: expected a column prompt, and exactly one of video, or path.*{found}"
    ):
        read_unscored(table)


def test_columns_of_later_rows_count(folder: Path) -> None:
    rows = [{"prompt": "p"}, {"prompt": "p", "video": "a.mp4"}]
    first, second = read_unscored(write_jsonl(folder / "t.jsonl", rows)).rows
    assert "column 'video': expected text, got ''" in first.errors["video"]
    assert second.videos == {"video": str(folder / "a.mp4")}


def test_json_and_parquet(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": "p", "video": "a.mp4"}, {"prompt": None, "video": "b.mp4"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "t.parquet")
    (folder / "t.JSON").write_text(json.dumps(rows, indent=1))
    for name, lines in (("t.parquet", [None, None]), ("t.JSON", [2, 6])):
        read = read_unscored(folder / name).rows
        assert [len(row.videos) for row in read] == [1, 0]
        assert [row.line for row in read] == lines
