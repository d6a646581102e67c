"""Tables as files: separators, encodings, broken text, and a thousand tables that no one should write."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from descore.tables.formats import RawRow, read_rows
from descore.tables.pairs import read_pairs, read_videos
from descore.tables.presets import PRESETS
from descore.tables.unscored import read_unscored
from tests.helpers.hostile_tables import DEEP, LONG, hostile_table
from tests.helpers.tables import ours

ROW = {"prompt": "a, b; c", "video": "é.mp4", "seed": "007"}


def read(folder: Path, content: str | bytes, name: str = "t.csv") -> list[RawRow]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(str(folder / name)))


def refusal(folder: Path, content: str | bytes, name: str = "t.csv") -> str:
    with pytest.raises(ValueError, match=r"t\.") as caught:
        read(folder, content, name)
    assert type(caught.value) is ValueError
    return str(caught.value).removeprefix(f"{folder}/")


class TestSeparators:
    @pytest.mark.parametrize("name", ["t.csv", "t.CSV"])
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    def test_the_header_tells_the_separator_and_no_type_is_guessed(
        self, tmp_path: Path, name: str, separator: str, line_end: str
    ) -> None:
        lines = [separator.join(ROW), separator.join(f'"{cell}"' for cell in ROW.values()), ""]
        assert [row.cells for row in read(tmp_path, line_end.join(lines), name)] == [ROW]

    def test_a_comma_wins_and_a_quoted_one_is_none(self, tmp_path: Path) -> None:
        assert [row.cells for row in read(tmp_path, "a;b,c\n1,2\n")] == [{"a;b": "1", "c": "2"}]
        assert [row.cells for row in read(tmp_path, '"a,b";c\n1,5;2\n')] == [{"a,b": "1,5", "c": "2"}]

    def test_a_tsv_is_separated_by_tabs_alone(self, tmp_path: Path) -> None:
        assert [row.cells for row in read(tmp_path, "a,b\tc\n1,2\t3\n", "t.tsv")] == [{"a,b": "1,2", "c": "3"}]

    def test_blank_lines_and_lines_of_empty_cells_are_no_rows(self, tmp_path: Path) -> None:
        rows = read(tmp_path, "\n\n\ufeffa,b\n\n1,2\n,\n  \n3,4\n".replace("\ufeff", ""))
        assert [(row.line, row.cells["a"]) for row in rows] == [(5, "1"), (8, "3")]

    def test_a_cell_may_be_of_any_length(self, tmp_path: Path) -> None:
        (row,) = read(tmp_path, f"a,b\n{'x' * 200_000},2\n")
        assert len(row.cells["a"]) == 200_000


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    @pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
    def test_another_encoding_is_converted_by_the_command_in_the_message(
        self, tmp_path: Path, encoding: str, name: str
    ) -> None:
        text = "prompt,video\na,b\né,c\n" if name == "t.csv" else '[{"prompt":\n\n"é"}]'
        message = refusal(tmp_path, text.encode(encoding), name)
        assert ("line 3" in message) == (encoding == "latin-1")
        source, target = str(tmp_path / name), str(tmp_path / name.replace(".", ".utf8.", 1))
        command = message.partition("convert it with: ")[2]
        assert shlex.split(command)[-3:] == [source, ">", target]
        subprocess.run(command, shell=True, check=True)
        assert Path(target).read_text().removeprefix("\ufeff") == text

    @pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json"])
    def test_a_byte_order_mark_is_no_part_of_a_name(self, tmp_path: Path, name: str) -> None:
        text = {"t.jsonl": '{"a": 1, "b": 2}', "t.json": '[{"a": 1, "b": 2}]'}.get(name, "a\tb\n1\t2")
        (row,) = read(tmp_path, b"\xef\xbb\xbf" + text.encode(), name)
        assert list(row.cells) == ["a", "b"]

    @pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
    def test_a_zero_byte_is_no_text(self, tmp_path: Path, name: str) -> None:
        assert refusal(tmp_path, b"prompt,video\na,b\nc\0,d", name).startswith(f"{name}, line 3: expected UTF-8 text")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.csv", "prompt,preference,preference\na,A,B\n", "t.csv, line 1: expected a name of its own"),
            (
                "t.csv",
                "\nprompt;;\na;A;B\n",
                "t.csv, line 2: expected a name of its own for each column, found twice: ''",
            ),
            ("t.tsv", "a\ta\n1\t2\n", "found twice: a; rename one"),
        ],
    )
    def test_two_columns_of_one_name_are_refused(self, tmp_path: Path, name: str, content: str, message: str) -> None:
        assert message in refusal(tmp_path, content, name)

    def test_two_columns_of_one_name_in_parquet(self, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = [pyarrow.array(["A"]), pyarrow.array(["B"])]
        parquet.write_table(pyarrow.Table.from_arrays(columns, names=["preference"] * 2), tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=r"t\.parquet: expected a name of its own .* found twice: preference"):
            list(read_rows(str(tmp_path / "t.parquet")))

    @pytest.mark.parametrize(
        "row", ['{"label": "A", "label": "B"}', '{"x": {"y": [{"label": "A", "z": 1, "label": "B"}]}}']
    )
    @pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
    def test_a_key_that_comes_twice_is_a_fault_of_its_row(self, tmp_path: Path, name: str, row: str) -> None:
        lines = ['{"label": "A"}', row, '{"label": "B"}']
        content = "\n".join(lines) if name == "t.jsonl" else f"[{', '.join(lines)}]"
        faults = [found.fault and str(found.fault) for found in read(tmp_path, content, name)]
        assert faults == [None, "column 'label': expected one value for each key, got ['A', 'B']", None]

    def test_a_key_that_comes_twice_in_a_cell_is_a_bad_cell(self, folder: Path) -> None:
        scores = '{"subject": 2, "subject": 0, "dynamics": 1, "camera": 1, "environment": 0, "style": 2}'
        (folder / "t.jsonl").write_text(json.dumps(ours(scores_a=scores)))
        with pytest.raises(ValueError, match="column 'scores_a': expected an object of subject"):
            read_pairs(folder / "t.jsonl")


class TestJson:
    @pytest.mark.parametrize("value", [LONG, DEEP, "[" * 101 + "]" * 101])
    @pytest.mark.parametrize("depth", ["{}", '{{"x": {}}}'])
    def test_what_python_cannot_hold_is_a_fault_of_its_line(self, tmp_path: Path, value: str, depth: str) -> None:
        content = f'{{"a": 1}}\n{{"a": {depth.format(value)}}}\n{{"a": 3}}'
        first, fault, third = read(tmp_path, content, "t.jsonl")
        assert (first.cells, third.cells) == ({"a": 1}, {"a": 3})
        assert fault.fault is not None
        assert "at most" in fault.fault.reason

    def test_a_list_in_lines_has_line_numbers(self, tmp_path: Path) -> None:
        rows = read(tmp_path, '[\n {"a": 1},\n\n {"a": ' + LONG + '}, 5\n,{"a": 3}\n]\n', "t.json")
        assert [(row.line, row.fault is None) for row in rows] == [(2, True), (4, False), (4, False), (5, True)]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('[{"a": 1}\n {"a": 2}]', "line 2: expected valid JSON: Expecting ',' or the end of the list"),
            ("[{}] x", "line 1: expected valid JSON"),
            ("[{}", "line 1: expected valid JSON"),
            ("[{},]", "line 1: expected valid JSON"),
            ("[,{}]", "line 1: expected valid JSON"),
            ("[{} [{}]]", "line 1: expected valid JSON"),
            ('{"a": 1}\n{"a": 2}', "a file with one object per line ends in .jsonl"),
            (f"[{{}},\n{DEEP}]", "line 2: column '(all)': expected at most 100 nested lists and objects"),
        ],
    )
    def test_a_broken_list_is_refused_with_its_line(self, tmp_path: Path, content: str, message: str) -> None:
        assert message in refusal(tmp_path, content, "t.json")

    @pytest.mark.parametrize("cell", [DEEP, LONG, f"<answer>{DEEP}", f'<answer>{{"video_1_scores": {LONG}}}</answer>'])
    @pytest.mark.parametrize(
        ("preset", "column"), [("descore", "scores_a"), ("descore_stage2", "answer"), ("descore_stage1", "videos")]
    )
    def test_no_cell_of_json_ends_the_reading(self, folder: Path, cell: str, preset: str, column: str) -> None:
        rest = {"videos": ["a.mp4", "b.mp4"], "CoT_A": "t", "CoT_B": "t", "GSB": "A"}
        (folder / "t.jsonl").write_text(json.dumps(ours(**{**rest, column: cell})))
        (bad,) = read_pairs(folder / "t.jsonl", preset=preset, on_bad_row="skip").rejected
        assert bad.column == column
        assert len(bad.value) <= 500


class TestFiles:
    def test_a_folder_a_pipe_and_nothing_are_no_tables(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").mkdir()
        os.mkfifo(tmp_path / "t.jsonl")
        for name, message in [("t.csv", "found a folder"), ("t.jsonl", "found a special file")]:
            with pytest.raises(ValueError, match=rf"t\..*: expected a table, {message}"):
                list(read_rows(str(tmp_path / name)))
        with pytest.raises(FileNotFoundError, match=r"t\.json: expected a table, found no file of this name"):
            list(read_rows(str(tmp_path / "t.json")))

    @pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
    def test_an_empty_file_has_no_rows(self, tmp_path: Path, name: str) -> None:
        assert read(tmp_path, b"", name) == []

    @pytest.mark.parametrize("kept", [0, 3, 200, -1])
    def test_parquet_that_is_not_whole(self, tmp_path: Path, kept: int) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([ours()]), tmp_path / "t.parquet")
        content = (tmp_path / "t.parquet").read_bytes()[:kept]
        assert refusal(tmp_path, content, "t.parquet").startswith("t.parquet: expected valid Parquet")


@pytest.mark.parametrize("cell", ["\ud800.mp4", "a\0.mp4", 5, ["a.mp4"], None])
def test_a_path_is_text_that_a_file_system_takes(folder: Path, cell: object) -> None:
    for preset, row in [("descore", ours(video_a=cell)), ("descore_stage1", {"videos": repr([cell, "b.mp4"])})]:
        (folder / "t.jsonl").write_text(json.dumps({"CoT_A": "t", "CoT_B": "t", "GSB": "A", "prompt": "p", **row}))
        (bad,) = read_pairs(folder / "t.jsonl", preset=preset, on_bad_row="skip", check_videos=False).rejected
        assert bad.column in {"video_a", "videos"}


def attempt(reader: Callable[..., object], table: Path, **options: object) -> tuple[object, Exception | None]:
    try:
        return reader(table, **options), None
    except (ValueError, FileNotFoundError) as error:
        return None, error


def test_a_thousand_hostile_tables_give_rows_or_one_line(folder: Path) -> None:
    """Every table is read in the three ways that there are; a line names the file, and any terminal can show it."""
    pytest.importorskip("pyarrow")
    num_read = 0
    for seed in range(1000):
        ending, content, preset = hostile_table(seed)
        table = folder / f"t{ending}"
        table.write_bytes(content)
        own = {"videoalign": "Overall", "videofeedback": "visual quality", "worldreward_bench": "action"}
        dimension = own.get(preset, "overall")
        reader = partial(read_pairs if preset in PRESETS else read_videos, preset=preset, dimensions=[dimension])
        for read_all in (partial(reader, on_bad_row="error"), partial(reader, on_bad_row="skip"), read_unscored):
            found, error = attempt(read_all, table)
            num_read += found is not None
            line = str(error)
            if isinstance(error, ValueError):
                assert type(error) is ValueError, f"seed {seed}"
                assert line.startswith(str(table)), f"seed {seed}"
                assert line.isprintable(), f"seed {seed}"
                assert len(line) < 2000, f"seed {seed}"
            elif error is not None:
                assert "video not found" in line, f"seed {seed}"
    assert num_read > 500
