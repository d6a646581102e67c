"""`descore pairs`, from a table to the table of pairs."""

from pathlib import Path

import pytest

from descore.cli import main
from descore.tables.formats import READERS, read_rows
from descore.tables.writer import write_rows
from tests.helpers.commands import refused

ROWS = [
    {"prompt": prompt, "video": f"videos/{prompt}{seed}.mp4", "seed": seed, "reward": reward}
    for prompt, rewards in (("a", (0.5, 2.0, 1.0)), ("b", (1.0, 1.0)), ("c", (3.0, 1.0)))
    for seed, reward in enumerate(rewards)
]


def cells_of(table: Path) -> list[dict]:
    return [dict(row.cells) for row in read_rows(str(table))]


@pytest.mark.parametrize("suffix", READERS)
def test_pairs_of_a_scored_table_in_every_format(tmp_path, capsys, suffix):
    table, output = tmp_path / f"scored{suffix}", tmp_path / "new" / f"pairs{suffix}"
    write_rows(table, ROWS)
    assert main(["pairs", str(table), "--output", str(output)]) == 0
    told = "2 pairs of 3 prompts, 1 left out as ties, 0 videos failed"
    assert capsys.readouterr().out == f"{told}: {output}\n"
    found = [{name: str(cell) for name, cell in cells.items()} for cells in cells_of(output)]
    assert found == [
        {
            "prompt": prompt,
            "video_chosen": f"../videos/{prompt}{chosen}.mp4",
            "video_rejected": f"../videos/{prompt}{rejected}.mp4",
            "reward_chosen": high,
            "reward_rejected": low,
            "margin": margin,
            "seed_chosen": f"{chosen}",
            "seed_rejected": f"{rejected}",
        }
        for prompt, chosen, rejected, high, low, margin in (
            ("a", 1, 0, "2.0", "0.5", "1.5"),
            ("c", 0, 1, "3.0", "1.0", "2.0"),
        )
    ]


def test_the_same_table_gives_the_same_bytes(tmp_path):
    write_rows(tmp_path / "t.csv", ROWS)
    for name in ("one.csv", "two.csv"):
        assert main(["pairs", str(tmp_path / "t.csv"), "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_failed_videos_are_left_out_and_listed(tmp_path, capsys):
    write_rows(tmp_path / "t.csv", [*ROWS, {"prompt": "a", "video": "x.mp4", "reward": None, "error": "x.mp4: broken"}])
    assert main(["pairs", str(tmp_path / "t.csv"), "--output", str(tmp_path / "pairs.csv")]) == 1
    printed = capsys.readouterr()
    assert "2 pairs of 3 prompts" in printed.out
    assert "1 videos failed" in printed.out
    assert printed.err == "  x.mp4: broken\n"


def test_a_table_is_scored_first_with_a_model(export, scorer, clips, tmp_path, capsys):
    rows = [{"prompt": "a bar", "video": clip, "seed": n} for n, clip in enumerate([*clips, "gone.mp4"])]
    write_rows(tmp_path / "videos.csv", rows)
    output = tmp_path / "pairs.jsonl"
    made = ["pairs", str(tmp_path / "videos.csv"), "--model", export, "--device", "cpu", "--output", str(output)]
    assert main(made) == 1
    rewards = [score.reward for score in scorer.score(clips, "a bar")]
    (pair,) = cells_of(output)
    assert (pair["reward_chosen"], pair["reward_rejected"]) == (max(rewards), min(rewards))
    assert pair["seed_chosen"] == str(rewards.index(max(rewards)))
    assert (output.parent / pair["video_chosen"]).samefile(clips[rewards.index(max(rewards))])
    assert "gone.mp4: cannot be opened" in capsys.readouterr().err
    assert len(cells_of(tmp_path / "pairs.scored.jsonl")) == 5
    assert main(made) == 1  # over the tables of before


def test_nothing_is_written_where_there_is_no_pair(tmp_path, capsys):
    write_rows(tmp_path / "t.csv", ROWS)
    output = tmp_path / "pairs.csv"
    assert main(["pairs", str(tmp_path / "t.csv"), "--min-margin", "9", "--output", str(output)]) == 1
    assert capsys.readouterr().out.endswith("3 left out as ties or below 9, 0 videos failed: nothing is written\n")
    assert not output.exists()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["TABLE", "--output", "TABLE"], "found one of the inputs"),
        (["TABLE", "--output", "OTHER"], "is not a table of pairs; choose another output"),
        (["TABLE", "--output", "x.txt"], "ends in .csv"),
        (["TABLE", "--output", "x.csv", "--min-margin", "-1"], "expected a number of at least 0"),
        (["TABLE", "--output", "x.csv", "--min-margin", "nan"], "expected a number of at least 0"),
        (["TABLE", "--output", "x.csv", "--min-margin", "wide"], "expected a number of at least 0"),
        (["TABLE", "--output", "x.csv", "--max-per-prompt", "0"], "expected a whole number of at least 1"),
        (["TABLE", "--output", "x.csv", "--reward", "rewrd"], r"expected a column rewrd.*did you mean reward\?"),
        (["OTHER", "--output", "x.csv"], "expected a column reward, .*--model"),
        (["TABLE", "--output", "x.csv", "--model", "EXPORT"], "has the columns reward, which its scored table"),
        (["gone.csv", "--output", "x.csv"], "expected a table, found no file of this name"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(export, tmp_path, capsys, monkeypatch, args, reason):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "t.csv", ROWS)
    write_rows(tmp_path / "other.csv", [{"prompt": "a", "video": "a.mp4"}])
    names = {"TABLE": "t.csv", "OTHER": "other.csv", "EXPORT": export}
    refused(capsys, reason, "pairs", *(names.get(arg, arg) for arg in args))
    assert not (tmp_path / "x.csv").exists()
