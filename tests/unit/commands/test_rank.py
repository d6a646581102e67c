"""`descore rank`, from the arguments to what is printed."""

import json

import pytest

from descore.cli import main
from descore.selection.ranking import rank
from tests.helpers.commands import refused


def run(export: str, *args: str) -> int:
    return main(["rank", "--model", export, "--device", "cpu", "--prompt", "a bar", *args])


def test_the_best_is_printed_first_with_margins(export, scorer, clips, capsys):
    assert run(export, *clips) == 0
    ranked = rank(scorer.score(clips, "a bar"))
    header, *lines = capsys.readouterr().out.splitlines()
    margins = [f"{one.margin:.4f}" for one in ranked[:-1]]
    assert [line.split() for line in lines] == [
        [f"{place}", f"{one.score.reward:.4f}", margin, clips[one.index]]
        for place, (one, margin) in enumerate(zip(ranked, [*margins, "-"], strict=True), start=1)
    ]
    assert "better than the next" not in header


def test_with_thoughts_it_says_how_sure(export, scorer, clips, capsys):
    assert run(export, "--num-thoughts", "3", "--json", *clips[:2]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    best, other = rank(scorer.score(clips[:2], "a bar", num_thoughts=3))
    assert first["video"] == clips[best.index]
    assert (first["rank"], first["reward"], first["margin"]) == (1, best.score.reward, best.margin)
    assert 0.5 <= first["probability"] == best.probability <= 1
    assert (second["rank"], second["margin"], second["probability"]) == (2, None, None)
    assert second["reward"] == other.score.reward
    run(export, "--num-thoughts", "3", *clips[:2])
    assert "better than the next" in capsys.readouterr().out


def test_best_prints_the_path_alone(export, scorer, clips, capsys):
    assert run(export, "--best", "gone.mp4", *clips) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{clips[rank(scorer.score(clips, 'a bar'))[0].index]}\n"
    assert printed.err.startswith("1 of 5 videos failed:\n  gone.mp4: ")


def test_where_all_fail_there_is_no_best(export, capsys):
    assert run(export, "--best", "gone.mp4", "lost.mp4") == 1
    assert capsys.readouterr().out == ""
    assert run(export, "--json", "gone.mp4") == 1
    assert json.loads(capsys.readouterr().out)["rank"] is None


def test_a_video_that_is_named_twice_is_ranked_once(export, clips, capsys):
    assert run(export, "--json", "--no-thoughts", clips[0], clips[1], clips[0]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["a.mp4"], "--prompt is needed for video files"),
        (["--prompt", "a", "videos.csv"], r"got the table videos\.csv: descore score scores tables"),
        (["--prompt", "a", "--json", "--best", "a.mp4"], "not allowed with argument"),
        (["--prompt", "a", "--num-thoughts", "0", "a.mp4"], "expected a number of thoughts of at least 1, got 0"),
        (["--prompt", "a", "none*.mp4"], "no video file matches"),
        (["--prompt", "a", "--device", "cuda:99", "a.mp4"], "device 'cuda:99' is not there"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(export, capsys, args, reason):
    refused(capsys, reason, "rank", "--model", export, *args)
