"""The layout of pair tables, and what becomes of a row that cannot be used."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest

from descore.tables.pairs import PairTable, read_pairs
from descore.types import Pair, Side
from tests.helpers.tables import SCORES, SCORES_CELL, labels, ours, write_csv

OURS = ("prompt", "video_a", "video_b", "preference")


class TestOurLayout:
    def test_reads_every_column(self, folder: Path) -> None:
        row = ours(
            id="x7", cot_a="<think>hm", scores_b=json.dumps(SCORES_CELL), mos_a="3.5", mos_b=" 4 ", preference="b"
        )
        table = read_pairs(write_csv(folder / "t.csv", [row]))
        a = Side(str(folder / "a.mp4"), thought="<think>hm", mos=(3.5,))
        b = Side(str(folder / "b.mp4"), scores=SCORES, mos=(4.0,))
        assert table == PairTable((Pair("x7", "a cat", a, b, (-1.0,)),), ())

    def test_labels_in_any_case_and_row_numbers_as_ids(self, folder: Path) -> None:
        table = read_pairs(write_csv(folder / "t.csv", [ours(preference=p) for p in ("A", "b", " Tie ")]))
        assert labels(table) == [(1.0,), (-1.0,), (0.0,)]
        assert [pair.id for pair in table.pairs] == ["1", "2", "3"]

    def test_an_answer_in_the_thought_is_no_annotation(self, folder: Path) -> None:
        thought = f'<answer>{{"dimension_scores": {json.dumps(SCORES_CELL)}}}</answer>'
        side = read_pairs(write_csv(folder / "t.csv", [ours(cot_a=thought)])).pairs[0].a
        assert side.thought == thought
        assert side.scores is None

    def test_several_dimensions(self, folder: Path) -> None:
        rows = [ours(preference_VQ="A", preference_TA="invalid", mos_a_VQ=1, mos_a_TA="", mos_b_VQ=2, mos_b_TA=3)]
        (pair,) = read_pairs(write_csv(folder / "t.csv", rows), dimensions=("TA", "VQ")).pairs
        assert math.isnan(pair.preference[0])
        assert pair.preference[1] == 1.0
        assert math.isnan(pair.a.mos[0])
        assert (pair.a.mos[1], pair.b.mos) == (1.0, (3.0, 2.0))

    def test_one_dimension_of_a_table_with_several(self, folder: Path) -> None:
        table = write_csv(folder / "t.csv", [ours(preference_TA="B", mos_a_TA=2)])
        (pair,) = read_pairs(table, dimensions=("TA",)).pairs
        assert (pair.preference, pair.a.mos) == ((-1.0,), (2.0,))
        assert labels(read_pairs(table)) == [(1.0,)]

    def test_paths_are_relative_to_the_table_unless_absolute(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_csv(folder / "t.csv", [ours(video_b=str(folder / "b.mp4"))])
        monkeypatch.chdir(folder.parent)
        (pair,) = read_pairs(f"{folder.name}/t.csv").pairs
        assert (pair.a.video, pair.b.video) == (f"{folder.name}/a.mp4", str(folder / "b.mp4"))


class TestFiles:
    def test_byte_order_mark(self, folder: Path) -> None:
        assert len(read_pairs(write_csv(folder / "t.csv", [ours()], encoding="utf-8-sig")).pairs) == 1

    def test_json_list_and_nested_objects(self, folder: Path) -> None:
        (folder / "t.json").write_text(json.dumps([ours(id=5, scores_a=SCORES_CELL, cot_a=None, mos_a=math.nan)]))
        (pair,) = read_pairs(folder / "t.json").pairs
        assert (pair.id, pair.a.scores, pair.a.thought, pair.a.mos) == ("5", SCORES, "", ())

    def test_parquet(self, folder: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {name: [value, value] for name, value in ours().items()}
        columns |= {"id": ["x", None], "mos_a": [math.nan, 2.0], "scores_b": [None, json.dumps(SCORES_CELL)]}
        parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
        first, second = read_pairs(folder / "t.parquet").pairs
        assert (first.id, first.a.mos, first.b.scores) == ("x", (), None)
        assert (second.id, second.a.mos, second.b.scores) == ("2", (2.0,), SCORES)

    def test_parquet_without_pyarrow(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        (folder / "t.parquet").touch()
        with pytest.raises(ImportError, match=r"pip install 'descore\[parquet\]'"):
            read_pairs(folder / "t.parquet")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.txt", b"", r"t\.txt: expected a file name that ends in \.csv, \.tsv, \.jsonl, \.json, \.parquet"),
            ("t.csv", b"\n", "expected at least one data row, got none"),
            (
                "t.csv",
                b'prompt\n"open\n',
                r"t\.csv, row from line 2: expected valid CSV: unexpected end of data; close every",
            ),
            ("t.csv", b"prompt\n\xff\n", r"t\.csv, line 2: expected UTF-8, found the byte 0xFF"),
            ("t.json", b"{}", r"t\.json: expected a JSON list of objects; .* ends in \.jsonl"),
            ("t.json", b"[", r"t\.json, line 1: expected valid JSON: Expecting value"),
            (
                "t.csv",
                b"prompt,path_A\nx,y\n",
                "expected a column preference, got the columns prompt, path_A; .*videoalign",
            ),
        ],
    )
    def test_not_a_table(self, folder: Path, name: str, content: bytes, message: str) -> None:
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_pairs(folder / name, on_bad_row="skip")


class TestBadRows:
    @pytest.mark.parametrize(
        ("cells", "message"),
        [
            ({"preference": "left"}, "column 'preference': expected A, B, tie, invalid, got 'left'"),
            ({"preference": ""}, "column 'preference': expected A, B, tie, invalid, got ''"),
            ({"prompt": "  "}, "column 'prompt': expected text, got '  '"),
            ({"mos_a": "good"}, "column 'mos_a': expected a number, got 'good'"),
            ({"mos_a": "inf"}, "column 'mos_a': expected a number, got 'inf'"),
            ({"scores_a": "{"}, "column 'scores_a': expected an object of subject, .*, each 0, 1, 2 or N/A, got '{'"),
            ({"scores_a": '{"subject": 3}'}, "column 'scores_a': expected an object .*, got '{\"subject\": 3}'"),
        ],
    )
    def test_error_names_file_row_line_column_and_value(
        self, folder: Path, cells: dict[str, str], message: str
    ) -> None:
        # A header, a row of two lines, a blank line: the second data row begins on line 5.
        path = write_csv(folder / "t.csv", [ours(mos_a="", scores_a="", prompt="two\nlines")])
        with path.open("a", newline="") as file:
            file.write("\n")
            csv.DictWriter(file, [*OURS, "mos_a", "scores_a"]).writerow(ours(**cells))
        with pytest.raises(ValueError, match=rf"t\.csv, data row 2 \(line 5 of the file\), {message}"):
            read_pairs(path)

    @pytest.mark.parametrize(
        ("preset", "cells", "message"),
        [
            ("descore_stage1", {"videos": "['a.mp4']"}, "column 'videos': expected a list of two video paths, got"),
            ("descore_stage1", {"videos": "'ab'"}, "column 'videos': expected a list of two video paths, got"),
            ("descore_stage1", {"videos": "['a.mp4', 1]"}, "column 'videos': expected a list of two video paths, got"),
            ("descore_stage1", {"videos": "open('x')"}, "column 'videos': expected a list of two video paths, got"),
            ("descore_stage2", {"answer": "<answer>none"}, "column 'answer': expected a JSON object of video_1_scores"),
            (
                "descore_stage2",
                {"answer": "<answer>{}"},
                "column 'answer.video_1_scores': expected an object of subject",
            ),
        ],
    )
    def test_published_layouts(self, folder: Path, preset: str, cells: dict[str, object], message: str) -> None:
        row = {
            "videos": "['a.mp4', 'b.mp4']",
            "prompt": "p",
            "CoT_A": "t",
            "CoT_B": "t",
            "GSB": "A",
            "answer": "",
            **cells,
        }
        with pytest.raises(ValueError, match=rf"data row 1 \(line 2 of the file\), {message}"):
            read_pairs(write_csv(folder / "t.csv", [row]), preset=preset)

    def test_rows_of_the_wrong_length(self, folder: Path) -> None:
        (folder / "t.csv").write_text("prompt,video_a,video_b,preference\na, cat,a.mp4,b.mp4,A\ncat,a.mp4,b.mp4,A\n")
        table = read_pairs(folder / "t.csv", on_bad_row="skip")
        assert len(table.pairs) == 1
        assert table.num_rejected() == {"expected 4 cells, as in the header": 1}

    def test_jsonl_line_that_is_no_object(self, folder: Path) -> None:
        (folder / "t.jsonl").write_text(f"\n{json.dumps(ours())}\n[1]\n{{broken\n")
        with pytest.raises(
            ValueError, match=r"data row 2 \(line 3 of the file\), .*: expected a JSON object, got '\[1\]'"
        ):
            read_pairs(folder / "t.jsonl")
        table = read_pairs(folder / "t.jsonl", on_bad_row="skip")
        assert [bad.line for bad in table.rejected] == [3, 4]

    def test_skip_collects_and_counts(self, folder: Path) -> None:
        rows = [ours(), ours(preference="x"), ours(video_b="c.mp4"), ours(preference="y"), ours(preference="invalid")]
        table = read_pairs(write_csv(folder / "t.csv", rows), on_bad_row="skip")
        assert [pair.id for pair in table.pairs] == ["1"]
        assert [(bad.row, bad.line, bad.value) for bad in table.rejected[:1]] == [(2, 3, "x")]
        assert table.num_rejected() == {
            "expected A, B, tie, invalid": 2,
            "video not found": 1,
            "no usable label": 1,
        }

    def test_duplicate_ids(self, folder: Path) -> None:
        path = write_csv(folder / "t.csv", [ours(id="x"), ours(id="y"), ours(id="x")])
        with pytest.raises(
            ValueError, match=r"data row 3 .*column 'id': expected an id that no earlier row has, got 'x'"
        ):
            read_pairs(path)
        assert [pair.id for pair in read_pairs(path, on_bad_row="skip").pairs] == ["x", "y"]

    def test_missing_videos_are_listed_at_once(self, folder: Path) -> None:
        rows = [ours(video_a=f"gone{i}.mp4", video_b="gone.mp4" if i == 1 else "b.mp4") for i in range(1, 13)]
        path = write_csv(folder / "t.csv", rows)
        with pytest.raises(FileNotFoundError) as caught:
            read_pairs(path)
        message = str(caught.value)
        assert message.startswith("12 rows refer to videos that do not exist")
        gone = f"{folder / 'gone1.mp4'}, {folder / 'gone.mp4'}"
        assert f"data row 1 (line 2 of the file), column 'video_a, video_b': video not found, got '{gone}'" in message
        assert "gone10.mp4" in message
        assert "gone11.mp4" not in message
        assert len(read_pairs(path, check_videos=False).pairs) == 12
        assert read_pairs(path, on_bad_row="skip").num_rejected() == {"video not found": 12}
