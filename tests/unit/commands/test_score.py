"""`descore score`, from the arguments to what is printed and written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from descore.cli import main
from descore.scoring.reading import ItemReader
from descore.scoring.scorer import Scorer
from descore.tables.formats import read_rows
from descore.tables.writer import write_rows
from tests.helpers.commands import refused


def run(export: str, *args: str) -> int:
    return main(["score", "--model", export, "--device", "cpu", *args])


def test_the_command_prints_one_json_record_per_video(export, scorer, clips, capsys):
    assert run(export, "--prompt", "a bar", "--json", *clips[:2]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = scorer.score(clips[:2], ["a bar"] * 2)
    assert records == [
        json.loads(json.dumps({"video": clip} | score.to_json()))
        for clip, score in zip(clips[:2], expected, strict=True)
    ]


def test_the_command_reports_a_failure_and_exits_with_1(export, clips, capsys):
    assert run(export, "--prompt", "a bar", "--json", "gone.mp4", clips[0]) == 1
    failed, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert failed["reward"] is None
    assert "gone.mp4" in failed["error"]
    assert good["error"] is None
    assert isinstance(good["reward"], float)


def test_the_options_reach_the_scorer(export, clips, capsys):
    assert run(export, "--prompt", "a bar", "--json", "--num-thoughts", "3", "--max-batch-tokens", "1", *clips[:2]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(record["each"]) for record in records] == [3, 3]
    assert all(record["reward_std"] is not None for record in records)


def test_the_command_prints_for_people(export, clips, capsys):
    assert run(export, "--prompt", "a bar", "--no-thoughts", clips[0], "gone.mp4") == 1
    (score,) = Scorer(export, device="cpu", thoughts=False).score(clips[:1], ["a bar"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{clips[0]}\n  reward {score.reward:.4f}\n  no thought\n")
    assert "gone.mp4\n  failed: gone.mp4: " in printed


def test_failed_videos_are_listed_at_the_end_with_their_reasons(export, clips, capsys):
    assert run(export, "--prompt", "a bar", "--json", "gone.mp4", clips[0], "lost.mp4") == 1
    first, *reasons = capsys.readouterr().err.splitlines()
    assert first == "2 of 3 videos failed:"
    assert [reason.partition(": ")[0] for reason in reasons] == ["  gone.mp4", "  lost.mp4"]


@pytest.fixture
def takes(clips: list[str], tmp_path: Path) -> Path:
    """A folder of takes 2, 10 and 1 of one prompt, with a file that is no video and a folder below it."""
    folder = tmp_path / "takes"
    (folder / "more").mkdir(parents=True)
    for clip, name in zip(clips, ("take-2.mp4", "take-10.MP4", "more/take-1.mp4"), strict=False):
        shutil.copy(clip, folder / name)
    (folder / "notes.txt").write_text("no video")
    return folder


def scored_videos(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line)["video"] for line in capsys.readouterr().out.splitlines()]


def test_a_folder_stands_for_the_videos_in_it_in_the_order_of_their_numbers(export, takes, capsys):
    assert run(export, "--prompt", "a bar", "--json", "--no-thoughts", str(takes)) == 0
    assert scored_videos(capsys) == [f"{takes}/{name}" for name in ("more/take-1.mp4", "take-2.mp4", "take-10.MP4")]


def test_a_pattern_stands_for_the_videos_that_match_and_goes_with_files(export, takes, clips, capsys):
    assert run(export, "--prompt", "a bar", "--json", "--no-thoughts", clips[0], f"{takes}/**/take-?.*") == 0
    assert scored_videos(capsys) == [clips[0], f"{takes}/more/take-1.mp4", f"{takes}/take-2.mp4"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(export, clips, tmp_path, capsys):
    shutil.copy(clips[0], tmp_path / "take[1].mp4")
    assert run(export, "--prompt", "a bar", "--json", "--no-thoughts", str(tmp_path / "take[1].mp4")) == 0
    assert scored_videos(capsys) == [f"{tmp_path}/take[1].mp4"]


def test_a_folder_of_videos_is_written_as_a_table(export, takes, tmp_path):
    output = tmp_path / "scores.csv"
    assert run(export, "--prompt", "a bar", "--no-thoughts", "--output", str(output), str(takes)) == 0
    found = [row.cells["video"] for row in read_rows(str(output))]
    assert found == [f"takes/{name}" for name in ("more/take-1.mp4", "take-2.mp4", "take-10.MP4")]


def test_a_folder_or_a_pattern_without_videos_is_refused(export, tmp_path, capsys):
    asked = ("score", "--model", export, "--prompt", "a")
    refused(capsys, r"is a folder without video files: expected names that end in \.mp4", *asked, tmp_path)
    refused(capsys, r"no video file matches .*none\*\.mp4", *asked, f"{tmp_path}/none*.mp4")
    (tmp_path / "0.png").touch()
    refused(capsys, r"frames as pictures are scored from Python: .*fps=8", *asked, tmp_path)


@pytest.fixture
def table(clips: list[str], tmp_path: Path) -> Path:
    rows = [("1", "a bar, moving", clips[0], clips[1]), ("2", "a cat", "gone.mp4", clips[2])]
    names = ("id", "prompt", "video_a", "video_b")
    write_rows(tmp_path / "pairs.csv", [dict(zip(names, row, strict=True)) for row in rows])
    return tmp_path / "pairs.csv"


def test_a_table_is_scored_beside_it(export, table, capsys):
    assert run(export, str(table), "--max-batch-tokens", "700") == 1
    printed = capsys.readouterr()
    output = table.with_name("pairs.scored.csv")
    assert printed.out == f"4 videos scored, 1 failed: {output}\n"
    assert "row 2, video_a: " in printed.err
    assert "gone.mp4: cannot be opened" in printed.err
    first, second = (row.cells for row in read_rows(str(output)))
    assert first["thought_a"]
    assert not second["reward_a"]
    assert [name for name in os.listdir(table.parent) if "pairs" in name] == ["pairs.csv", "pairs.scored.csv"]


def test_many_failures_are_counted_and_not_all_listed(export, tmp_path, capsys):
    write_rows(tmp_path / "t.csv", [{"prompt": "a", "video": f"{i}.mp4"} for i in range(12)])
    assert run(export, str(tmp_path / "t.csv")) == 1
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 11
    assert printed[-1] == "  and 2 more: see the column error of the table"


def test_scores_of_video_files_are_written_where_they_are_asked_to(export, scorer, clips, tmp_path, capsys):
    output = tmp_path / "new folder" / "scores.jsonl"
    assert run(export, "--prompt", "a bar", "--output", str(output), *clips[:2]) == 0
    assert capsys.readouterr().out == f"2 videos scored, 0 failed: {output}\n"
    rows = [row.cells for row in read_rows(str(output))]
    expected = scorer.score(clips[:2], "a bar")
    for row, clip, score in zip(rows, clips, expected, strict=False):
        fields = json.loads(json.dumps(score.to_json()))
        assert row == {"prompt": "a bar", "video": os.path.relpath(clip, output.parent)} | fields


def test_a_video_that_is_given_twice_is_scored_once_and_printed_twice(export, clips, capsys, monkeypatch):
    read, read_one = [], ItemReader.read
    monkeypatch.setattr(ItemReader, "read", lambda *one: read.append(one) or read_one(*one))
    assert run(export, "--prompt", "a bar", "--json", *clips[:2], clips[0], "--max-batch-tokens", "1") == 0
    first, _, again = capsys.readouterr().out.splitlines()
    assert first == again
    assert len(read) == 2


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["CLIP"], "--prompt is needed for video files"),
        (["CLIP", "--prompt", "a", "--num-thoughts", "0"], "expected a number of thoughts of at least 1, got 0"),
        (["CLIP", "--prompt", "a", "--max-batch-tokens", "-1"], "number of tokens in a batch of at least 1, got -1"),
        (["CLIP", "--prompt", "a", "--no-thoughts", "--num-thoughts", "3"], "contradicts scoring without thoughts"),
        (["CLIP", "--prompt", "a", "--device", "cuda:99"], "device 'cuda:99' is not there: expected one of cpu"),
        (["CLIP", "--prompt", "a", "--shard", "1/2"], "--shard needs --output"),
        (["CLIP", "--prompt", "a", "--json", "--output", "x.csv"], "give one of the two"),
        (["CLIP", "--prompt", "a", "--output", "CLIP"], r"expected a name for the output that ends in \.csv"),
        (["TABLE", "--prompt", "a"], "--prompt goes with video files"),
        (["TABLE", "--json"], r"--json goes with video files; for a table give --output scored\.jsonl"),
        (["TABLE", "CLIP", "--prompt", "a"], "expected video files, or one table; got 2 files"),
        (["TABLE", "--output", "TABLE"], "found one of the inputs"),
        (["TABLE", "--output", "/proc/none/scored.csv"], "cannot be written to"),
        (["TABLE", "--reward-from", "checklist"], "this model was trained to give 'head'; it has no 'checklist'"),
        (["gone.csv"], r"gone\.csv: expected a table, found no file of this name"),
        (["conf"], "--prompt is needed"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_before_the_first_video(
    export, table, clips, capsys, monkeypatch, args, reason
):
    monkeypatch.setattr(Scorer, "stream", None)
    before = table.read_bytes()
    named = [{"CLIP": clips[0], "TABLE": str(table)}.get(arg, arg) for arg in args]
    told = refused(capsys, reason, "score", "--model", export, "--device", "cpu", *named)
    assert told.count("\n") == 1
    assert table.read_bytes() == before


@pytest.mark.parametrize("columns", ["prompt,film", "text,video", "prompt,video,path"])
def test_a_table_without_its_columns_is_refused(export, tmp_path, capsys, columns):
    (tmp_path / "bad.csv").write_text(f"{columns}\n" + ",".join("x" for _ in columns.split(",")))
    reason = f"expected a column prompt, and exactly one of video, or path.*found {', '.join(columns.split(','))}"
    refused(capsys, reason, "score", "--model", export, tmp_path / "bad.csv")


def test_a_model_that_is_none_is_refused_in_one_line(clips, capsys):
    reason = "descore score: runs/nothing/export/last is neither an existing folder"
    refused(capsys, reason, "score", "--model", "runs/nothing/export/last", "--prompt", "A circle.", clips[0])


def test_an_interrupt_says_how_to_resume(export, table, capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "score_batch", interrupt)
    with pytest.raises(SystemExit) as ended:
        run(export, str(table))
    assert ended.value.code == 130
    assert capsys.readouterr().err == "descore score: interrupted; repeat the command to resume it\n"


def test_a_reader_that_ends_early_ends_the_command_quietly(export, clips):
    command = [sys.executable, "-m", "descore.cli", "score", "--model", export, "--prompt", "a bar", "--no-thoughts"]
    with subprocess.Popen([*command, *clips], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""
