import hashlib
import json

import decord
import numpy as np
import pytest

from data_modules.world import rendering
from data_modules.world.rendering import RenderSettings, render_split
from data_modules.world.teacher import Teacher
from descore.answer import overall_score, parse_answer, parse_scores

SMALL = RenderSettings(size=48, num_frames=4)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def files(folder):
    """Tell files that were written again from those that were left alone."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.*")}


def rows(table):
    return [json.loads(line) for line in table.read_text().splitlines()]


@pytest.mark.parametrize("split", ["train", "ood"])
def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path, split):
    first, second = (
        render_split(tmp_path / name, split, 3, SMALL, 7, num_workers=num_workers)
        for name, num_workers in (("first", 1), ("second", 3))
    )
    assert digests(first.parent) == digests(second.parent)
    assert len(digests(first.parent)) == 8  # six videos, the table and the marker
    other = render_split(tmp_path / "other", split, 3, SMALL, 8)
    assert not set(digests(other.parent).values()) & set(digests(first.parent).values())


def test_a_pair_does_not_depend_on_how_many_there_are(tmp_path):
    few, many = (render_split(tmp_path / str(count), "train", count, SMALL, 0) for count in (2, 4))
    assert rows(many)[:2] == rows(few)
    assert digests(few.parent / "videos").items() <= digests(many.parent / "videos").items()


def test_a_row_tells_the_truth_about_its_videos(tmp_path):
    for row in rows(render_split(tmp_path, "train", 20, RenderSettings(48, 2, teacher=Teacher({})), 0)):
        scores = [parse_scores(row[f"scores_{side}"]) for side in "ab"]
        assert [parse_answer(row[f"cot_{side}"]).scores for side in "ab"] == scores
        a, b = map(overall_score, scores)
        assert (row["mos_a"], row["mos_b"]) == (a, b)
        assert row["preference"] == ("A" if a > b else "B" if b > a else "tie")
        assert row["video_a"] == f"videos/{row['id']}-a.mp4"


def test_videos_read_back_as_they_were_drawn(tmp_path, monkeypatch):
    """The files hold what the drawing gave: 16 frames at 8 fps, and the mean error of compression is small."""
    drawn = {}
    write = rendering.write_video
    monkeypatch.setattr(
        rendering,
        "write_video",
        lambda path, frames, fps: (drawn.update({path.stem: frames}), write(path, frames, fps)),
    )
    folder = render_split(tmp_path, "val", 2, RenderSettings(), 0).parent
    assert len(drawn) == 4
    for name, frames in drawn.items():
        reader = decord.VideoReader(str(folder / f"videos/{name}.mp4"), num_threads=1)
        assert reader.get_avg_fps() == 8
        read = reader.get_batch(range(len(reader))).asnumpy()
        assert read.shape == frames.shape == (16, 96, 96, 3)
        assert np.abs(read.astype(float) - frames).mean() < 8


def test_a_finished_split_is_left_alone(tmp_path):
    folder = render_split(tmp_path, "train", 2, SMALL, 0).parent
    before = files(folder)
    assert render_split(tmp_path, "train", 2, SMALL, 0) == folder / "pairs.jsonl"
    assert files(folder) == before


def test_another_teacher_rewrites_the_table_and_keeps_the_videos(tmp_path):
    table = render_split(tmp_path, "train", 4, SMALL, 0)
    before, kind = files(table.parent / "videos"), rows(table)
    again = render_split(tmp_path, "train", 4, RenderSettings(48, 4, teacher=Teacher({}, corrupt=1.0)), 0)
    assert files(again.parent / "videos") == before
    assert [row["cot_a"] for row in rows(again)] != [row["cot_a"] for row in kind]
    assert [row["scores_a"] for row in rows(again)] == [row["scores_a"] for row in kind]


def test_a_table_of_another_version_is_written_anew_and_keeps_its_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "TABLE_VERSION", 1)
    table = render_split(tmp_path, "train", 4, SMALL, 0)
    before, expected = files(table.parent / "videos"), table.read_text()
    table.write_text("")
    monkeypatch.undo()
    assert render_split(tmp_path, "train", 4, SMALL, 0).read_text() == expected
    assert files(table.parent / "videos") == before


def test_other_videos_replace_the_folder(tmp_path):
    folder = render_split(tmp_path, "train", 4, SMALL, 0).parent
    before = digests(folder / "videos")
    render_split(tmp_path, "train", 2, SMALL, 1)
    assert len(rows(folder / "pairs.jsonl")) == 2
    after = digests(folder / "videos")
    assert len(after) == 4
    assert not set(after.values()) & set(before.values())
    assert [path.name for path in tmp_path.iterdir()] == ["train"]  # nothing is left beside it


def test_an_interrupted_rendering_goes_on_where_it_stopped(tmp_path, monkeypatch):
    write = rendering.write_video

    def stop_at_the_third(path, frames, fps):
        write(path, frames, fps)
        if path.stem == "train-00001-a":
            raise KeyboardInterrupt

    monkeypatch.setattr(rendering, "write_video", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        render_split(tmp_path, "train", 2, SMALL, 0, num_workers=1)
    assert not (tmp_path / "train").exists()
    (unfinished,) = tmp_path.iterdir()
    kept = files(unfinished / "videos")
    monkeypatch.setattr(rendering, "write_video", write)

    resumed = render_split(tmp_path, "train", 2, SMALL, 0)
    whole = {name: stat for name, stat in kept.items() if name.endswith(".mp4")}
    assert set(whole) == {"train-00000-a.mp4", "train-00000-b.mp4"}
    assert whole.items() <= files(resumed.parent / "videos").items()
    assert digests(resumed.parent) == digests(render_split(tmp_path / "fresh", "train", 2, SMALL, 0).parent)


def test_label_noise_replaces_training_preferences_and_nothing_else(tmp_path):
    noisy = RenderSettings(48, 2, label_noise=1.0)
    for split, noise in (("train", True), ("val", False)):
        clean = rows(render_split(tmp_path, split, 20, RenderSettings(48, 2), 0))
        wrong = rows(render_split(tmp_path, split, 20, noisy, 0))
        assert {row["preference"] for row in clean} == {"A", "B", "tie"}
        for before, after in zip(clean, wrong, strict=True):
            swapped = {"A": ("B",), "B": ("A",), "tie": ("A", "B")}[before["preference"]]
            assert after["preference"] in (swapped if noise else (before["preference"],))
            assert {**after, "preference": 0} == {**before, "preference": 0}


def test_a_folder_of_someone_else_is_never_replaced(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"without rendered\.json"):
        render_split(tmp_path, "train", 1, SMALL, 0)
    assert (tmp_path / "train" / "thesis.txt").read_text() == "years of work"


def test_a_probability_out_of_range_is_refused_by_name():
    with pytest.raises(ValueError, match="for corruption, got 30"):
        RenderSettings(corruption=30)
