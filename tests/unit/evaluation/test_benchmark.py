"""Benchmarks: every YAML reads the layout that it is for, and says what is wrong with another."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest

from descore.evaluation.benchmark import load_benchmark, table_benchmark
from descore.evaluation.benchmark_files import known_benchmarks
from descore.tables.pairs import read_videos

NAN = math.nan
SIDES = {"video1_path": "a.mp4", "video2_path": "b.mp4", "prompt": "a cat"}
GENAI = {"prompt": "a cat", "left_model": "x", "right_model": "y", "left_video": "a.mp4", "right_video": "b.mp4"}
VIDEOALIGN = {"path_A": "a.mp4", "path_B": "b.mp4", "A_model": "x", "B_model": "y", "prompt": "a cat"}
MJ = {"caption": "a cat", "video_0_path": "a.mp4", "video_1_path": "b.mp4"}
MJ_CATEGORIES = {
    "Alignment": "Video 1 better",
    "Safety": "same",
    "Fineness": "Video 2 better",
    "Coherence & Consistency": "Same",
    "Bias": "Hard to judge",
}


def world(left: str = "videos/wrb_0001/left.mp4", **labels: object) -> dict[str, object]:
    """A row as in bench.jsonl: nested videos and labels, and columns that no reward model reads."""
    return {
        "pair_id": "wrb_0001",
        "input_image": "videos/wrb_0001/source.jpg",
        "input_caption": "A sunlit street.",
        "actions": ["forward", "forward", "left+camera_down"],
        "frames_per_action": 8,
        "left": {"video": left, "model": "model_x", "overlay_video": "videos/wrb_0001/left_overlay.mp4"},
        "right": {"video": "videos/wrb_0001/right.mp4", "model": "model_y"},
        "trajectory_group": "compound",
        "style": "photo",
        "label": {"action": "left", "appearance": "right", "motion": "tie", **labels},
    }


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("name", "rows", "expected", "num_unusable"),
    [
        (
            "videogen_rewardbench",
            [{**VIDEOALIGN, "Overall": "A", "VQ": "B", "MQ": "same", "TA": "A"}],
            [(1.0, -1.0, 0.0, 1.0)],
            0,
        ),
        (
            "genai_bench",
            [{**GENAI, "vote_type": vote} for vote in ("leftvote", "rightvote", "tievote", "bothbad_vote")],
            [(1.0,), (-1.0,), (0.0,), (0.0,)],
            0,
        ),
        (
            "mj_bench_video",
            [
                {**MJ, "overall_preference": "Video 1 Better", "category_preference": MJ_CATEGORIES},
                {
                    **MJ,
                    "overall_preference": "Hard to judge",
                    "category_preference": dict.fromkeys(MJ_CATEGORIES, "Hard to judge"),
                },
            ],
            [(1.0, 1.0, 0.0, -1.0, 0.0, NAN)],
            1,
        ),
        (
            "vision_reward_db_video",
            [{**SIDES, "standard_answer": answer} for answer in ("video1", "video2", "tie")],
            [(1.0,), (-1.0,), (0.0,)],
            0,
        ),
        ("worldreward_bench", [world()], [(1.0, -1.0, 0.0)], 0),
    ],
)
def test_the_published_benchmarks_read_their_layouts(tmp_path, name, rows, expected, num_unusable):
    table = write(tmp_path / "table.jsonl", rows)
    found = load_benchmark(name, root=tmp_path, table=table).read()
    assert str([pair.preference for pair in found.pairs]) == str(expected), "nan included"
    assert found.num_rejected() == ({"no usable label": num_unusable} if num_unusable else {})


def test_worldreward_bench_is_read_from_its_nested_rows(tmp_path):
    write(tmp_path / "bench.jsonl", [world(), world() | {"pair_id": "wrb_0002"}])
    first, second = load_benchmark("worldreward_bench", root=tmp_path).read().pairs
    assert (first.id, second.id) == ("wrb_0001", "wrb_0002")
    assert first.prompt == "A sunlit street.\nCamera: forward, forward, left+camera_down"
    assert (first.a.video, first.a.generator) == (str(tmp_path / "videos/wrb_0001/left.mp4"), "model_x")
    assert (first.b.video, first.b.generator) == (str(tmp_path / "videos/wrb_0001/right.mp4"), "model_y")
    one = load_benchmark("worldreward_bench", root=tmp_path, dimensions=["motion"]).read()
    assert one.pairs[0].preference == (0.0,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (world(motion="Left one"), r"data row 1.*'label\.motion': expected left, right, tie, got 'Left one'"),
        (world(motion=None), r"'label\.motion': expected left, right, tie"),
        (world() | {"actions": "forward"}, "'actions': expected a list of texts, got 'forward'"),
        (world() | {"actions": []}, "'actions': expected a list of texts"),
        (world() | {"left": "left.mp4"}, "'left': expected a JSON object of video, model"),
        (world(left=""), r"'left\.video': expected text"),
    ],
)
def test_a_row_of_another_layout_than_worldreward_bench_is_told(tmp_path, row, reason):
    write(tmp_path / "bench.jsonl", [row])
    with pytest.raises(ValueError, match=reason):
        load_benchmark("worldreward_bench", root=tmp_path).read()


def test_videofeedback_has_single_videos_with_scores(tmp_path):
    names = (
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    )
    row = {"id": "p000304", "text prompt": "a cat", "video link": "https://example.org/videos/p000304.mp4"}
    rows = [row | dict(zip(names, (1, 2, 3, 4, ""), strict=True))]
    benchmark = load_benchmark("videofeedback_test", root=tmp_path, table=write(tmp_path / "test.csv", rows))
    (video,) = benchmark.read().videos
    assert not benchmark.has_pairs
    assert benchmark.dimensions == names
    assert (video.id, video.prompt, video.side.video) == ("p000304", "a cat", str(tmp_path / "videos/p000304.mp4"))
    assert video.side.mos == pytest.approx((1, 2, 3, 4, NAN), nan_ok=True)


@pytest.mark.parametrize("name", ["rendered_val", "rendered_ood", "rendered_far"])
def test_the_rendered_benchmarks_are_made_where_they_are_not_there(tmp_path, name):
    yaml = tmp_path / f"{name}.yaml"
    yaml.write_text(known_benchmarks()[name].read_text().replace("num_pairs: 600", "num_pairs: 1"))
    benchmark = load_benchmark(str(yaml), root=tmp_path / "root")
    (pair,) = benchmark.read().pairs
    assert pair.id == f"{name.removeprefix('rendered_')}-00000"
    assert Path(pair.a.video).is_file()
    assert pair.a.scores is not None
    assert load_benchmark(name).root == Path("runs/held_out")


def test_every_benchmark_says_what_it_is():
    assert len(known_benchmarks()) >= 7
    for name in known_benchmarks():
        assert len(load_benchmark(name, root="data").description) > 30


def test_ties_that_are_not_named_are_unusable(tmp_path):
    yaml = tmp_path / "strict.yaml"
    yaml.write_text("{description: d, table: t.csv, preset: genai_bench, ties: [tievote]}")
    write(tmp_path / "t.csv", [{**GENAI, "vote_type": vote} for vote in ("tievote", "bothbad_vote", "leftvote")])
    found = load_benchmark(str(yaml), root=tmp_path).read()
    assert [pair.preference for pair in found.pairs] == [(0.0,), (1.0,)]
    assert found.num_rejected() == {"no usable label": 1}
    yaml.write_text("{description: d, table: t.csv, preset: genai_bench, ties: [draw]}")
    with pytest.raises(ValueError, match="expected ties among tievote, bothbad_vote; got draw"):
        load_benchmark(str(yaml), root=tmp_path).read()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{description: d, table: t.csv, tie: [same]}", "'tie'.*expected the keys description, table, root, preset"),
        ("{table: t.csv}", "description"),
        ("{description: d, table: t.csv, dimensions: {a: b}}", "dimensions|mine.yaml"),
        ("description: d: e", "mine.yaml: mapping values"),
    ],
)
def test_a_yaml_that_is_wrong_is_refused(tmp_path, text, reason):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        load_benchmark(str(tmp_path / "mine.yaml"), root=tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"genai_bench, mj_bench_video, .*rendered_val.*got 'videogen'"):
        load_benchmark("videogen")


def test_the_current_folder_comes_before_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "conf/benchmarks").mkdir(parents=True)
    (tmp_path / "conf/benchmarks/genai_bench.yaml").write_text("{description: ours, table: t.csv}")
    monkeypatch.chdir(tmp_path)
    assert load_benchmark("genai_bench", root=".").description == "ours"
    assert "mj_bench_video" in known_benchmarks()


def test_a_benchmark_without_its_data_says_where_it_is_from(tmp_path):
    with pytest.raises(ValueError, match=r"--root.*data\.json.*huggingface\.co/datasets/TIGER-Lab/GenAI-Bench"):
        load_benchmark("genai_bench")
    with pytest.raises(FileNotFoundError, match=r"data\.json: expected the table.*TIGER-Lab"):
        load_benchmark("genai_bench", root=tmp_path).read()


def test_a_maker_lies_beside_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "maker_of_tables.py").write_text("def make(root, text): (root / 't.csv').write_text(text)")
    (tmp_path / "conf/benchmarks").mkdir(parents=True)
    text = "prompt,video_a,video_b,preference\\np,a.mp4,b.mp4,tie\\n"
    make = f'make: {{function: maker_of_tables.make, arguments: {{text: "{text}"}}}}'
    (tmp_path / "conf/benchmarks/made.yaml").write_text(f"description: d\ntable: t.csv\nroot: .\n{make}\n")
    monkeypatch.chdir(tmp_path)
    assert load_benchmark("made").read().pairs[0].preference == (0.0,)
    assert str(tmp_path) not in sys.path


def test_a_maker_that_is_not_there_is_told(tmp_path):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("{description: d, table: t.csv, make: {function: no_package.render}}")
    with pytest.raises(ValueError, match=r"no_package\.render.*No module named 'no_package'.*source checkout"):
        load_benchmark(str(yaml), root=tmp_path).read()


def test_any_table_is_a_benchmark(tmp_path):
    table = write(tmp_path / "mine.csv", [{"prompt": "p", "video_a": "a", "video_b": "b", "preference_VQ": "tie"}])
    benchmark = table_benchmark(table, dimensions=["VQ"])
    assert (benchmark.name, benchmark.root) == ("mine", tmp_path)
    assert benchmark.read().pairs[0].preference == (0.0,)


class TestSingleVideos:
    def test_our_layout(self, tmp_path):
        rows = [
            {"id": "x", "video": "a.mp4", "prompt": "a cat", "mos": 3.5, "generator": "g"},
            {"id": "", "video": "b.mp4", "prompt": "a cat", "mos": "", "generator": ""},
        ]
        table = read_videos(write(tmp_path / "t.csv", rows), check_videos=False)
        (video,) = table.videos
        assert (video.id, video.side.video, video.side.mos) == ("x", str(tmp_path / "a.mp4"), (3.5,))
        assert video.side.generator == "g"
        assert table.num_rejected() == {"no usable label": 1}

    def test_several_dimensions(self, tmp_path):
        rows = [{"video": "a.mp4", "prompt": "a cat", "mos_look": 1, "mos_motion": ""}]
        table = read_videos(write(tmp_path / "t.csv", rows), dimensions=("motion", "look"), check_videos=False)
        assert table.videos[0].side.mos == pytest.approx((NAN, 1.0), nan_ok=True)

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"video": "a.mp4", "prompt": "p", "mos": "good"}, "data row 1.*'mos'.*expected a number, got 'good'"),
            ({"video": "a.mp4", "prompt": "", "mos": 1}, "'prompt'.*expected text"),
            ({"video": "a.mp4", "prompt": "p", "score": 1}, "expected a column mos.*descore_videos, videofeedback"),
        ],
    )
    def test_bad_rows_are_named(self, tmp_path, row, reason):
        with pytest.raises(ValueError, match=reason):
            read_videos(write(tmp_path / "t.csv", [row]), check_videos=False)

    def test_missing_videos_and_unknown_presets_are_told(self, tmp_path):
        table = write(tmp_path / "t.csv", [{"video": "a.mp4", "prompt": "p", "mos": 1}])
        with pytest.raises(FileNotFoundError, match=r"1 row refers to videos that do not exist[\s\S]*a\.mp4"):
            read_videos(table)
        with pytest.raises(
            ValueError, match="expected a preset among descore_videos, videofeedback; got 'genai_bench'"
        ):
            read_videos(table, preset="genai_bench")
