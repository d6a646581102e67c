"""`descore score`, from the arguments to what is printed and written."""

import csv
import json
import math
from pathlib import Path

import pytest

from descore.cli import main
from descore.scoring.scorer import Scorer


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
    assert run(export, "--prompt", "a bar", "--json", "--num-thoughts", "3", "--batch-size", "1", *clips[:2]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(record["each"]) for record in records] == [3, 3]
    assert all(record["reward_std"] is not None for record in records)


def test_the_command_prints_for_people(export, clips, capsys):
    assert run(export, "--prompt", "a bar", "--no-thoughts", clips[0], "gone.mp4") == 1
    (score,) = Scorer(export, device="cpu", thoughts=False).score(clips[:1], ["a bar"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{clips[0]}\n  reward {score.reward:.4f}\n  no thought\n")
    assert "gone.mp4\n  failed: gone.mp4: " in printed


def write_table(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_is_scored_beside_its_rows(export, scorer, clips, capsys):
    folder = Path(clips[0]).parent
    table = [
        {"id": "1", "prompt": "a bar, moving", "video_a": "0.mp4", "video_b": "1.mp4"},
        {"id": "2", "prompt": "a cat", "video_a": "gone.mp4", "video_b": "2.mp4"},
    ]
    assert run(export, write_table(folder / "pairs.csv", table)) == 1
    assert "4 videos scored, 1 failed" in capsys.readouterr().out
    first, second = read_table(folder / "pairs.scored.csv")
    expected = scorer.score(clips[:3], ["a bar, moving"] * 2 + ["a cat"])
    found = [float(first["reward_a"]), float(first["reward_b"]), float(second["reward_b"])]
    assert found == pytest.approx([score.reward for score in expected], abs=1e-5)
    assert (first["id"], first["thought_b"], first["error_a"]) == ("1", expected[1].thought, "")
    assert second["reward_a"] == ""
    assert "gone.mp4" in second["error_a"]


def test_a_table_of_single_videos_goes_where_it_is_asked_to(export, clips, tmp_path):
    table = write_table(tmp_path / "videos.csv", [{"prompt": "a bar", "video": clips[0]}])
    assert run(export, table, "--output", str(tmp_path / "out.csv"), "--no-thoughts") == 0
    (row,) = read_table(tmp_path / "out.csv")
    assert math.isfinite(float(row["reward"]))
    assert row["error"] == ""


@pytest.mark.parametrize(
    ("rows", "reason"),
    [([{"prompt": "a", "film": "x"}], "found prompt, film"), ([{"text": "a", "video": "x"}], "found text, video")],
)
def test_a_table_without_its_columns_is_refused(export, tmp_path, rows, reason):
    with pytest.raises(SystemExit, match=reason):
        run(export, write_table(tmp_path / "bad.csv", rows))


def test_videos_without_a_prompt_are_refused(export, clips):
    with pytest.raises(SystemExit, match="--prompt is needed"):
        run(export, clips[0])


def test_a_model_that_is_none_is_refused_in_one_line(clips, capsys):
    with pytest.raises(SystemExit) as error:
        main(["score", "--model", "runs/nothing/export/last", "--prompt", "A circle.", clips[0]])
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith("descore score: runs/nothing/export/last is neither an existing folder")
