"""A table that is written is read back as it was."""

import math
import sys
from pathlib import Path

import pytest

from descore.tables.formats import read_rows
from descore.tables.pairs import PairTable, read_pairs
from descore.tables.writer import check_output, write_pairs, write_rows
from descore.types import Pair, Side
from tests.helpers.tables import SCORES, labels


class TestWritePairs:
    def test_round_trip(self, folder: Path) -> None:
        prompt = ' "quoted", two\nlines\u2028and Umlaut ü '
        a = Side(str(folder / "a.mp4"), "<think>x</think>", SCORES, (1.5,))
        b = Side(str(folder / "b.mp4"), scores=dict.fromkeys(SCORES), mos=(0.1 + 0.2,))
        pairs = (
            Pair("a-1", prompt, a, b, (1.0,)),
            Pair("2", "p", b, Side(a.video), (0.0,)),
            Pair("3", "p", a, b, (-1.0,), ("<think>A</think>", "")),
            Pair("4", "p", a, b, (-1.0,), ("", "of both")),
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


ROWS: list[dict[str, object]] = [
    {"id": "007", "prompt": 'two\r\nlines, "quoted"; ü\t\u2028', "video": "a.mp4", "reward": 0.1 + 0.2, "error": None},
    {"id": "8", "prompt": "p", "reward": None, "error": "failed", "scores": {"subject": 2}},
]


class TestWriteRows:
    @pytest.mark.parametrize("name", ["t.csv", "t.TSV", "t.jsonl", "t.json", "t.parquet"])
    def test_what_is_written_is_read_back(self, tmp_path: Path, name: str) -> None:
        pytest.importorskip("pyarrow")
        write_rows(tmp_path / "new" / name, ROWS)
        read = [dict(row.cells) for row in read_rows(str(tmp_path / "new" / name))]
        columns = ["id", "prompt", "video", "reward", "error", "scores"]
        if name.lower() in {"t.csv", "t.tsv"}:
            assert [list(row) for row in read] == [columns] * 2
            assert read[0] == ROWS[0] | {"reward": repr(0.1 + 0.2), "error": "", "scores": ""}
            assert read[1] == ROWS[1] | {"video": "", "reward": "", "scores": '{"subject": 2}'}
        else:
            assert [{key: row.get(key) for key in columns} for row in read] == [
                {key: row.get(key) for key in columns} for row in ROWS
            ]
        assert [path.name for path in (tmp_path / "new").iterdir()] == [name]

    @pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet"])
    def test_no_cell_stops_the_table(self, tmp_path: Path, name: str) -> None:
        pytest.importorskip("pyarrow")
        cells = ["\ud800", 3, None, [1, "a"], {"a": [None]}, 2**80, math.nan, b"bytes", True]
        write_rows(tmp_path / name, [{"cell": cell, "id": str(index)} for index, cell in enumerate(cells)])
        assert [row.cells["id"] for row in read_rows(str(tmp_path / name))] == [str(i) for i in range(len(cells))]

    def test_an_input_a_folder_and_a_url_are_never_written(self, folder: Path) -> None:
        (folder / "t.csv").write_text("input")
        (folder / "linked.csv").symlink_to("t.csv")
        (folder / "hard.csv").hardlink_to(folder / "t.csv")
        (folder / "sub.csv").mkdir()
        wrong = [
            (folder / name, "inputs") for name in ("t.csv", "linked.csv", "hard.csv", "../" + folder.name + "/t.csv")
        ]
        for path, reason in [
            *wrong,
            (folder / "sub.csv", "folder"),
            ("s3://bucket/t.csv", "URL"),
            ("out.txt", "ends in"),
        ]:
            with pytest.raises(ValueError, match=f"expected .*{reason}"):
                write_rows(path, ROWS, inputs=["gone.mp4", folder / "t.csv"])
        assert (folder / "t.csv").read_text() == "input"

    def test_the_folder_is_made_and_pyarrow_asked_for_before_the_work(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check_output(tmp_path / "new" / "t.csv")
        assert list((tmp_path / "new").iterdir()) == []
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="choose another folder"):
            check_output(tmp_path / "file" / "t.csv")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"pip install 'descore\[parquet\]'"):
            check_output(tmp_path / "t.parquet")
