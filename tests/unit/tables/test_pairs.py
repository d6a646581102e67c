import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from descore.tables.pairs import PairTable, read_pairs
from descore.tables.writer import write_pairs
from descore.types import Pair, Side

SCORES = {"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}
SCORES_CELL = {**SCORES, "camera": "N/A"}
OURS = ("prompt", "video_a", "video_b", "preference")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the videos a.mp4 and b.mp4."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"video")
    return tmp_path


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ours(**cells: object) -> dict[str, object]:
    return {"prompt": "a cat", "video_a": "a.mp4", "video_b": "b.mp4", "preference": "A", **cells}


def labels(table: PairTable) -> list[tuple[float, ...]]:
    return [pair.preference for pair in table.pairs]


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
            ("t.txt", b"", r"t\.txt: expected a file name that ends in \.csv, \.jsonl, \.json, \.parquet"),
            ("t.csv", b"\n", "expected at least one data row, got none"),
            ("t.csv", b'prompt\n"open\n', r"t\.csv, line 2: expected valid CSV: unexpected end of data"),
            ("t.csv", b"prompt\n\xff\n", r"t\.csv: expected CSV text in UTF-8"),
            ("t.json", b"{}", r"t\.json: expected a JSON list of objects, got dict"),
            ("t.json", b"[", r"t\.json: expected JSON text in UTF-8: Expecting value"),
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


VIDEOALIGN: dict[str, object] = {"path_A": "a.mp4", "path_B": "b.mp4", "prompt": "p"}


class TestPresets:
    def test_videoalign(self, folder: Path) -> None:
        rows = [
            VIDEOALIGN | {"VQ": "A", "MQ": "same", "TA": "B", "MOS_A_VQ": 3.5, "MOS_B_VQ": 2},
            VIDEOALIGN | {"VQ": "invalid", "MQ": "B", "TA": "A"},
            VIDEOALIGN | {"VQ": "invalid", "MQ": "A", "TA": "invalid"},
        ]
        path = write_csv(folder / "t.csv", rows)
        table = read_pairs(path, preset="videoalign", dimensions=("TA", "VQ"))
        (first, second), (bad,) = table.pairs, table.rejected
        assert first.preference == (-1.0, 1.0)
        assert (first.a.mos[1], first.b.mos[1]) == (3.5, 2.0)
        assert second.preference[0] == 1.0
        assert math.isnan(second.preference[1])
        assert (bad.row, bad.column, bad.reason) == (3, "TA, VQ", "no usable label")
        assert table.num_rejected() == {"no usable label": 1}
        assert labels(read_pairs(path, preset="videoalign", dimensions=("MQ",))) == [(0.0,), (-1.0,), (1.0,)]

    def test_descore_stage1(self, folder: Path) -> None:
        row = {
            "videos": "['a.mp4', 'b.mp4']",
            "problem": "long",
            "prompt": "p",
            "CoT_A": "ta",
            "CoT_B": "tb",
            "GSB": "B",
        }
        (pair,) = read_pairs(write_csv(folder / "t.csv", [row]), preset="descore_stage1").pairs
        a, b = Side(str(folder / "a.mp4"), "ta"), Side(str(folder / "b.mp4"), "tb")
        assert pair == Pair("1", "p", a, b, (-1.0,))

    @pytest.mark.parametrize(
        "wrap", ["<answer>{}</answer>", "<answer>{{}}</answer>\n<answer>\n```json\n{}\n```\n</answer>"]
    )
    def test_descore_stage2(self, folder: Path, wrap: str) -> None:
        worse = dict.fromkeys(SCORES_CELL, "0")
        answer = {"video_1_scores": SCORES_CELL, "video_2_scores": worse, "gsb_result": "Video 1 is better"}
        row = {"videos": ["a.mp4", "b.mp4"], "problem": "p", "answer": wrap.format(json.dumps(answer))}
        (pair,) = read_pairs(write_jsonl(folder / "t.jsonl", [row]), preset="descore_stage2").pairs
        assert (pair.prompt, pair.preference, pair.a.scores) == ("p", (1.0,), SCORES)
        assert pair.b.scores == dict.fromkeys(SCORES, 0)

    @pytest.mark.parametrize(
        ("left", "right"),
        [("left_video", "right_video"), ("left_video_path", "right_video_path"), ("video_left", "video_right")],
    )
    def test_genai_bench(self, folder: Path, left: str, right: str) -> None:
        votes = ["leftvote", "rightvote", "tievote", "bothbad_vote"]
        rows = [{"prompt": "p", left: "a.mp4", right: "b.mp4", "vote_type": vote} for vote in votes]
        table = read_pairs(write_csv(folder / "t.csv", rows), preset="genai_bench")
        assert labels(table) == [(1.0,), (-1.0,), (0.0,), (0.0,)]
        assert table.pairs[0].b.video == str(folder / "b.mp4")

    def test_mj_bench_video(self, folder: Path) -> None:
        def row(overall: str, safety: str, discard: bool = False) -> dict[str, object]:
            cells = {"caption": "p", "video_0_path": "a.mp4", "video_1_path": "b.mp4", "overall_preference": overall}
            return cells | {"category_preference": {"Safety": safety}, "discard": discard}

        rows = [
            row("Video 1 Better", "Same"),
            row("Hard to judge", "Video 2 better"),
            row("Same", "Same", discard=True),
        ]
        (folder / "t.json").write_text(json.dumps(rows))
        overall = read_pairs(folder / "t.json", preset="mj_bench_video")
        assert labels(overall) == [(1.0,)]
        assert overall.pairs[0].a.video == str(folder / "a.mp4")
        assert overall.num_rejected() == {"no usable label": 2}
        assert [bad.column for bad in overall.rejected] == ["overall_preference", "discard"]
        both = read_pairs(folder / "t.json", preset="mj_bench_video", dimensions=("Safety", "overall"))
        assert both.pairs[0].preference == (0.0, 1.0)
        assert both.pairs[1].preference[0] == -1.0
        assert math.isnan(both.pairs[1].preference[1])

    @pytest.mark.parametrize("prompt", ["prompt", "caption"])
    def test_vision_reward_db(self, folder: Path, prompt: str) -> None:
        answers = ["video1", "video2", "tie"]
        rows = [{prompt: "p", "video1_path": "a.mp4", "video2_path": "b.mp4", "standard_answer": a} for a in answers]
        table = read_pairs(write_csv(folder / "t.csv", rows), preset="vision_reward_db")
        assert labels(table) == [(1.0,), (-1.0,), (0.0,)]
        assert table.pairs[0].prompt == "p"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"preset": "videoalgin"}, "expected a preset among descore, .*; got 'videoalgin'"),
            ({"preset": "videoalign"}, r"expected dimensions among VQ, MQ, TA, Overall; got \['overall'\]"),
            ({"dimensions": ()}, r"expected at least one dimension; got \[\]"),
            (
                {"preset": "videoalign", "dimensions": ("Overall",)},
                "expected a column Overall, got the columns path_A, ",
            ),
            ({"preset": "genai_bench"}, "expected a column left_video or left_video_path or video_left, got"),
            ({"on_bad_row": "raise"}, "expected on_bad_row 'error' or 'skip', got 'raise'"),
        ],
    )
    def test_unknown_names_list_what_exists(self, folder: Path, arguments: dict[str, object], message: str) -> None:
        path = write_csv(folder / "t.csv", [VIDEOALIGN | {"TA": "A"}])
        with pytest.raises(ValueError, match=message):
            read_pairs(path, **{"on_bad_row": "skip", **arguments})  # type: ignore[arg-type]


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


class TestWritePairs:
    def test_round_trip(self, folder: Path) -> None:
        prompt = ' "quoted", two\nlines\u2028and Umlaut ü '
        a = Side(str(folder / "a.mp4"), "<think>x</think>", SCORES, (1.5,))
        b = Side(str(folder / "b.mp4"), scores=dict.fromkeys(SCORES), mos=(0.1 + 0.2,))
        pairs = (
            Pair("a-1", prompt, a, b, (1.0,)),
            Pair("2", "p", b, Side(a.video), (0.0,)),
            Pair("3", "p", a, b, (-1.0,)),
        )
        write_pairs(folder / "t.jsonl", pairs)
        assert read_pairs(folder / "t.jsonl") == PairTable(pairs, ())
        assert {path.name for path in folder.iterdir()} == {"a.mp4", "b.mp4", "t.jsonl"}

    def test_round_trip_of_several_dimensions(self, folder: Path) -> None:
        a, b = Side(str(folder / "a.mp4"), mos=(1.0, math.nan)), Side(str(folder / "b.mp4"), mos=(2.0, 3.0))
        pairs = (Pair("1", "p", a, b, (math.nan, -1.0)), Pair("2", "p", a, b, (0.0, 1.0)))
        write_pairs(folder / "t.jsonl", pairs, dimensions=("VQ", "TA"))
        assert read_pairs(folder / "t.jsonl", dimensions=("VQ", "TA")).pairs == pairs
        assert labels(read_pairs(folder / "t.jsonl", dimensions=("TA",))) == [(-1.0,), (1.0,)]

    def test_the_table_moves_with_its_videos(self, folder: Path) -> None:
        (folder / "sub").mkdir()
        pair = Pair("1", "p", Side(str(folder / "a.mp4")), Side(str(folder / "sub/../b.mp4")), (1.0,))
        write_pairs(folder / "t.jsonl", [pair])
        write_pairs(folder / "sub/t.jsonl", [pair])
        moved = folder.rename(folder.with_name("moved"))
        assert read_pairs(moved / "t.jsonl").pairs[0].a.video == str(moved / "a.mp4")
        outside = Path(read_pairs(moved / "sub/t.jsonl").pairs[0].a.video)
        assert outside.resolve() == (moved / "a.mp4").resolve()

    @pytest.mark.parametrize("preference", [(math.nan,), (0.5,), (1.0, 1.0), ()])
    def test_refuses_what_could_not_be_read_back(self, folder: Path, preference: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="pair 'p1': expected a preference of"):
            write_pairs(folder / "t.jsonl", [Pair("p1", "p", Side("a.mp4"), Side("b.mp4"), preference)])
        assert not (folder / "t.jsonl").exists()

    def test_refuses_another_format(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"ends in \.jsonl, got 't\.csv'"):
            write_pairs(folder / "t.csv", [])
