"""Evaluations of real files by a tiny model: the same to the byte, however often and wherever they stop."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from descore.evaluation.benchmark import Benchmark, load_benchmark, table_benchmark
from descore.evaluation.folder import Evaluation
from descore.evaluation.run import evaluate
from descore.scoring import run as module
from descore.scoring.folder import ScoringError
from descore.scoring.protocol import ScoringProtocol
from descore.scoring.scorer import Scorer
from descore.thinking.readout import ReadoutError
from tests.helpers.examples import export_model
from tests.helpers.tables import SCORES_CELL, with_gaps, write_jsonl

BATCH = 2
TOKENS = 760
"""Tokens of a batch: room for two videos of some ten tokens, each with two thoughts and a prompt, and not for three."""

PROTOCOL = ScoringProtocol(num_thoughts=2, max_batch_tokens=TOKENS)


@pytest.fixture(scope="module")
def benchmark(data: Path) -> Benchmark:
    return table_benchmark(data / "pairs.jsonl")


@pytest.fixture(scope="module")
def whole(export: str, benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """An evaluation that nothing stopped."""
    return evaluate(export, benchmark, tmp_path_factory.mktemp("whole") / "run", protocol=PROTOCOL)


@pytest.fixture(scope="module")
def swapped(export: str, benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """An evaluation with swapped prompts."""
    return again(export, benchmark, tmp_path_factory.mktemp("swapped") / "run", with_swapped_prompts=True)


def again(export: str, benchmark: Benchmark, folder: Path, **options: object) -> Evaluation:
    asked = {name: options.pop(name) for name in list(options) if hasattr(PROTOCOL, name)}
    if not asked.get("thoughts", True):
        asked["num_thoughts"] = 1
    return evaluate(export, benchmark, folder, protocol=replace(PROTOCOL, **asked), **options)


def summary_of(folder: Path) -> bytes:
    return (folder / "summary.json").read_bytes()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are scored from here on."""
    names, score = [], Scorer.score_batch
    monkeypatch.setattr(
        Scorer,
        "score_batch",
        lambda self, items, *rest: names.extend(i.key for i in items) or score(self, items, *rest),
    )
    return names


def test_each_video_is_scored_once_per_prompt_the_dearest_first(whole, export, data):
    videos = [(video["video"], video["prompt"]) for video in whole.videos]
    assert videos == [
        ("videos/0.mp4", "a bar"),
        ("videos/1.mp4", "a bar"),
        ("videos/2.mp4", "a bar"),
        ("videos/3.mp4", "a cat"),
        ("videos/0.mp4", "a cat"),
        ("videos/3.mp4", "a bar"),
    ]
    assert [(pair["a"], pair["b"]) for pair in whole.pairs] == [(0, 1), (1, 2), (3, 4), (0, 5)]
    costs = [video["cost"] for video in whole.videos]
    lines = [json.loads(line) for line in (whole.folder / "scores.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == sorted(range(6), key=lambda index: -costs[index])
    plain = Scorer(export)
    order = [line["index"] for line in lines]
    expected = plain.stream(
        [str(data / videos[index][0]) for index in order],
        [videos[index][1] for index in order],
        num_thoughts=2,
        batches=[BATCH] * 3,
    )
    for line, score in zip(lines, expected, strict=True):
        assert line == {"index": line["index"]} | json.loads(json.dumps(score.to_json())), "to the bit"


def test_a_copy_of_the_layout_of_worldreward_bench_is_evaluated(export, data, tmp_path):
    """Three pairs in the folders of the published data, each with its videos, its scene and its three labels."""
    rows = []
    for number, (motion, left, right) in enumerate((("left", 0, 1), ("right", 2, 3), ("tie", 1, 2))):
        name = f"wrb_{number:04}"
        (tmp_path / "bench/videos" / name).mkdir(parents=True)
        for side, clip in (("left", left), ("right", right)):
            shutil.copy(data / f"videos/{clip}.mp4", tmp_path / f"bench/videos/{name}/{side}.mp4")
        sides = {side: {"video": f"videos/{name}/{side}.mp4", "model": side} for side in ("left", "right")}
        label = {"action": "tie", "appearance": "left", "motion": motion}
        rows.append(
            {"pair_id": name, "input_caption": f"scene {number}", "actions": ["forward"], "label": label} | sides
        )
    write_jsonl(tmp_path / "bench/bench.jsonl", rows)
    benchmark = load_benchmark("worldreward_bench", root=tmp_path / "bench")
    evaluation = evaluate(export, benchmark, tmp_path / "run", protocol=ScoringProtocol(thoughts=False))
    assert evaluation.videos[3] | {"video": "videos/wrb_0001/right.mp4", "generator": "right"} == evaluation.videos[3]
    numbers = evaluation.summary["dimensions"]
    assert {name: numbers[name]["num_decided"] for name in numbers} == {"action": 0, "appearance": 3, "motion": 2}
    right = (evaluation.margins("motion") * torch.tensor([1, -1, 0])).gt(0).sum().item()
    assert numbers["motion"]["without_ties"] == right / 2


def test_a_run_stands_for_its_newest_finished_export(export, benchmark, tmp_path):
    for version in (0, 2):
        (tmp_path / f"run/version_{version}/export").mkdir(parents=True)
        (tmp_path / f"run/version_{version}/export/last").symlink_to(export)
    evaluation = again(str(tmp_path / "run"), benchmark, tmp_path / "evaluation", limit=1)
    assert evaluation.info["model"] == str(tmp_path / "run/version_2/export/last")


def test_the_folder_says_what_was_asked(whole, export, benchmark):
    info = whole.info
    assert (info["benchmark"], info["num_videos"], info["num_pairs"], info["limit"]) == ("pairs", 6, 4, None)
    assert (
        info["protocol"] | {"thoughts": 2, "temperature": 1.0, "max_batch_tokens": TOKENS, "max_frames": 6}
        == info["protocol"]
    )
    first = whole.pairs[0]
    assert first | {"id": "p0", "preference": {"overall": 1}, "scores_a": SCORES_CELL, "scores_b": None} == first
    assert [video["generator"] for video in whole.videos][:2] == ["g0", "g1"]
    margins = whole.margins("overall")
    rewards = [score["reward"] for score in whole.scores]
    assert margins.tolist() == [
        rewards[0] - rewards[1],
        rewards[1] - rewards[2],
        rewards[3] - rewards[4],
        rewards[0] - rewards[5],
    ]
    assert whole.preferences("overall").tolist() == [1, 0, -1, 1]
    numbers = whole.summary["dimensions"]["overall"]
    assert (numbers["num_pairs"], numbers["num_decided"], numbers["num_failed"]) == (4, 3, 0)
    assert set(numbers["by_num_thoughts"]) == {"1", "2"}
    assert set(numbers["by_generator"]) == {"g0", "g1", "g2", "g3"}
    assert whole.summary["thoughts"]["mean_tokens"] <= 4


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("torn", [0, 40])
def test_a_run_that_was_killed_goes_on_where_it_was(whole, export, benchmark, tmp_path, scored, lines, torn):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    (folder / "summary.json").unlink()
    written = (folder / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "scores.jsonl").write_bytes(b"".join(written[:lines]) + b"".join(written[lines : lines + 1])[:torn])
    assert again(export, benchmark, folder).is_complete
    assert summary_of(folder) == summary_of(whole.folder)
    assert (folder / "scores.jsonl").read_bytes() == b"".join(written)
    assert len(scored) == 6 - lines // BATCH * BATCH, "only batches that were not written whole"


class TestSwappedPrompts:
    """Of four videos, 0 and 3 stand under both prompts: only 1 and 2 of "a bar" can take "a cat"."""

    def test_are_scored_beside_the_own_ones(self, swapped, whole, export, data):
        assert len(swapped.videos) == len(swapped.scores) == 6
        assert [(video["video"], video["prompt"]) for video in swapped.swapped_videos] == [
            ("videos/1.mp4", "a cat"),
            ("videos/2.mp4", "a cat"),
        ]
        path = str(data / "videos/1.mp4")
        (alone,) = Scorer(export).score([path], ["a cat"], num_thoughts=2)
        assert swapped.swapped_rewards("overall")[1].item() == pytest.approx(alone.reward, abs=1e-5)
        assert swapped.swapped_rewards("overall").isnan().tolist() == [True, False, False, True, True, True]
        assert swapped.rewards("overall").tolist() == pytest.approx(whole.rewards("overall").tolist(), abs=1e-5)

    def test_are_measured_and_change_no_other_number(self, swapped, whole):
        found = swapped.summary["dimensions"]["overall"]["hacking"]["swapped"]
        fall = (swapped.rewards("overall") - swapped.swapped_rewards("overall"))[1:3]
        assert found["fall"] == pytest.approx(fall.mean().item())
        assert (found["num_videos"], found["num_failed"]) == (2, 0)
        assert found["pairs"]["num_decided"] == 0, "the one pair of both videos is a tie"
        assert whole.summary["dimensions"]["overall"]["hacking"]["swapped"] is None
        assert (swapped.summary["num_videos"], swapped.summary["num_swapped_videos"]) == (6, 2)
        assert swapped.info["table_digest"] == whole.info["table_digest"]
        assert "num_swapped" not in whole.info, "evaluations without it resume as they did"

    @pytest.mark.parametrize("lines", [0, 3, 7])
    def test_resume_after_a_kill(self, swapped, export, benchmark, tmp_path, scored, lines):
        folder = tmp_path / "run"
        shutil.copytree(swapped.folder, folder)
        (folder / "summary.json").unlink()
        written = (folder / "scores.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "scores.jsonl").write_bytes(b"".join(written[:lines]) + written[lines][:40])
        assert again(export, benchmark, folder, with_swapped_prompts=True).is_complete
        assert summary_of(folder) == summary_of(swapped.folder)
        assert len(scored) == 8 - lines // BATCH * BATCH

    def test_need_a_folder_of_their_own(self, whole, export, benchmark):
        with pytest.raises(ScoringError, match="num_swapped is 2 and was None"):
            again(export, benchmark, whole.folder, with_swapped_prompts=True)

    def test_need_two_prompts(self, export, benchmark, tmp_path):
        with pytest.raises(ScoringError, match=r"pairs\.jsonl: expected at least two different prompts.*got 'a bar'"):
            again(export, benchmark, tmp_path / "run", limit=2, with_swapped_prompts=True)
        assert not (tmp_path / "run").exists()

    def test_that_are_not_scored_yet_keep_the_summary_back(self, swapped, export, benchmark, tmp_path):
        first = again(export, benchmark, tmp_path / "run", shard=(1, 2), with_swapped_prompts=True)
        assert (first.num_to_score, first.summary) == (8, {})
        assert 0 < first.num_scored < 8
        again(export, benchmark, tmp_path / "run", shard=(2, 2), with_swapped_prompts=True)
        assert summary_of(tmp_path / "run") == summary_of(swapped.folder)


def test_a_run_that_is_finished_scores_nothing_and_loads_no_model(whole, export, benchmark, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    monkeypatch.setattr(module, "Scorer", None)
    assert again(export, benchmark, folder).summary == whole.summary


def test_a_run_that_was_killed_before_its_first_score_begins_anew(whole, export, benchmark, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "pairs.jsonl").write_text("{}\n")
    again(export, benchmark, folder)
    assert summary_of(folder) == summary_of(whole.folder)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_shards_give_the_same_summary_once_all_are_there(whole, export, benchmark, tmp_path, order):
    for index in order:
        evaluation = again(export, benchmark, tmp_path / "run", shard=(index, 2))
        assert evaluation.is_complete == bool(evaluation.summary) == (index == order[-1])
    assert summary_of(tmp_path / "run") == summary_of(whole.folder)
    assert {path.name for path in (tmp_path / "run").glob("scores*")} == {"scores-1-of-2.jsonl", "scores-2-of-2.jsonl"}
    with pytest.raises(ScoringError, match=r"scores-1-of-2\.jsonl.*do not belong to shard 1/1"):
        again(export, benchmark, tmp_path / "run")


def test_shards_that_wrote_elsewhere_are_brought_together(whole, export, benchmark, tmp_path):
    for index in (1, 2):
        again(export, benchmark, tmp_path / str(index), shard=(index, 2))
    shutil.copy(tmp_path / "2/scores-2-of-2.jsonl", tmp_path / "1")
    assert again(export, benchmark, tmp_path / "1", shard=(1, 2)).is_complete
    assert summary_of(tmp_path / "1") == summary_of(whole.folder)


def test_another_mount_point_gives_the_same_thoughts(whole, export, data, tmp_path):
    shutil.copytree(data, tmp_path / "elsewhere")
    moved = again(export, table_benchmark(tmp_path / "elsewhere/pairs.jsonl"), tmp_path / "run")
    assert moved.scores == whole.scores
    shutil.copytree(whole.folder, tmp_path / "begun")
    assert (
        again(export, table_benchmark(tmp_path / "elsewhere/pairs.jsonl"), tmp_path / "begun").summary == whole.summary
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_thoughts": 3}, "thoughts is 3 and was 2"),
        ({"thoughts": False}, "thoughts is 0 and was 2; temperature is None and was 1.0"),
        ({"max_batch_tokens": 999}, "max_batch_tokens is 999 and was 760"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16' and was 'float32'"),
        ({"limit": 2}, "limit is 2 and was None"),
        ({"temperature": 0.5}, "temperature is 0.5 and was 1.0"),
    ],
)
def test_a_folder_of_another_protocol_is_refused(whole, export, benchmark, options, reason):
    with pytest.raises(ScoringError, match=rf"{reason}[\s\S]*choose another --output"):
        again(export, benchmark, whole.folder, **options)


def test_a_folder_of_another_model_or_table_is_refused(whole, build, benchmark, data, tmp_path):
    other = export_model(build(max_thought_tokens=5), tmp_path / "other")
    with pytest.raises(ScoringError, match="model_digest is"):
        again(other, benchmark, whole.folder)
    table = data / "changed.jsonl"
    table.write_text((data / "pairs.jsonl").read_text().replace('"preference": "tie"', '"preference": "A"'))
    changed = Benchmark("pairs", data, table)
    with pytest.raises(ScoringError, match="table_digest is"):
        again(whole.info["model"], changed, whole.folder)


def test_a_file_that_is_being_written_is_left_alone(export, benchmark, tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.scores.jsonl.lock"), pytest.raises(ScoringError, match="by another process"):
        again(export, benchmark, tmp_path / "run")


def test_a_file_of_other_scores_is_refused(whole, export, benchmark, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    lines = (tmp_path / "run/scores.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run/scores.jsonl").write_text("".join(lines[::-1]))
    with pytest.raises(ScoringError, match=r"scores\.jsonl, line 1: expected item \d, got \d"):
        again(export, benchmark, tmp_path / "run")


def test_missing_videos_are_listed_before_anything_starts(export, data, tmp_path):
    benchmark = with_gaps(data, tmp_path / "data")
    with pytest.raises(ScoringError, match=r"1 of 4 video files are missing[\s\S]*--skip-missing[\s\S]*3\.mp4"):
        again(export, benchmark, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_fails_is_counted_and_never_zero(export, data, tmp_path):
    evaluation = again(export, with_gaps(data, tmp_path / "data"), tmp_path / "run", skip_missing=True)
    assert evaluation.info["missing"] == ["videos/3.mp4"]
    summary = evaluation.summary
    assert summary["num_failed_videos"] == 3
    assert list(summary["errors"].values()) == [2, 1]
    assert next(iter(summary["errors"])).startswith("cannot be opened")
    assert evaluation.margins("overall").isnan().tolist() == [False, True, True, True]
    numbers = summary["dimensions"]["overall"]
    assert (numbers["num_pairs"], numbers["num_failed"]) == (1, 3)
    assert all(score["reward"] is None for score in evaluation.scores if score["error"])


def test_a_limit_takes_the_first_pairs(export, benchmark, tmp_path):
    evaluation = again(export, benchmark, tmp_path / "run", limit=2, thoughts=False)
    assert [pair["id"] for pair in evaluation.pairs] == ["p0", "p1"]
    assert len(evaluation.videos) == 3
    assert evaluation.summary["thoughts"] is None
    assert evaluation.summary["dimensions"]["overall"]["by_num_thoughts"] is None


def test_a_threshold_comes_from_another_split_of_the_same_model(whole, export, benchmark, tmp_path):
    other = again(export, benchmark, tmp_path / "other", limit=2)
    evaluation = again(export, benchmark, tmp_path / "run", tie_threshold_from=other.folder)
    fixed = evaluation.summary["dimensions"]["overall"]["fixed_threshold"]
    assert fixed["threshold"] == other.summary["dimensions"]["overall"]["tie_threshold"]
    assert fixed["from"] == str(other.folder)
    assert 0 <= fixed["accuracy"] <= 1
    with pytest.raises(ScoringError, match="these very pairs"):
        again(export, benchmark, tmp_path / "run", tie_threshold_from=whole.folder)
    with pytest.raises(ScoringError, match="another model or protocol"):
        again(export, benchmark, tmp_path / "one", num_thoughts=1, tie_threshold_from=other.folder)


def test_a_model_that_never_thinks_is_said_to(build, benchmark, tmp_path):
    model = export_model(build(thoughts=False), tmp_path / "model")
    evaluation = again(model, benchmark, tmp_path / "run", num_thoughts=1)
    assert (evaluation.info["protocol"]["thoughts"], evaluation.info["protocol"]["temperature"]) == (0, None)
    assert evaluation.summary["thoughts"] is None
    assert evaluation.summary["num_failed_videos"] == 0


def test_rewards_can_be_read_from_thoughts(export, benchmark, tmp_path):
    evaluation = again(export, benchmark, tmp_path / "run", reward_from="overall_score")
    assert evaluation.info["protocol"]["reward_from"] == "overall_score"
    assert evaluation.summary["num_failed_videos"] == 6, "no random thought says a score"
    assert evaluation.summary["thoughts"]["well_formed"] == 0
    with pytest.raises(ReadoutError, match="let the model think"):
        again(export, benchmark, tmp_path / "other", reward_from="overall_score", thoughts=False)


def test_a_model_with_several_rewards_is_asked_for_the_one_of_that_name(build, data, tmp_path):
    model = export_model(build(reward_names=("VQ", "TA"), max_thought_tokens=3), tmp_path / "model")
    rows = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    rows = [row | {"preference_ta": row["preference"], "preference_Overall": row["preference"]} for row in rows]
    table = data / "named.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = table_benchmark(table, dimensions=["ta", "Overall"])
    evaluation = again(model, benchmark, tmp_path / "run", num_thoughts=1)
    rewards = [score["rewards"] for score in evaluation.scores]
    assert evaluation.rewards("ta").tolist() == [reward["TA"] for reward in rewards]
    assert evaluation.rewards("Overall").tolist() == pytest.approx([r["TA"] + r["VQ"] for r in rewards])


def test_single_videos_are_correlated(export, data, tmp_path):
    rows = [{"video": f"videos/{i}.mp4", "prompt": "a bar", "mos": mos} for i, mos in enumerate((1, 4, 2, 3))]
    (data / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = table_benchmark(data / "rated.jsonl", preset="descore_videos")
    evaluation = again(export, benchmark, tmp_path / "run", thoughts=False)
    assert evaluation.pairs == []
    ranks = evaluation.rewards("overall").argsort().argsort() + 1.0
    expected = 1 - 6 * ((ranks - torch.tensor([1.0, 4.0, 2.0, 3.0])) ** 2).sum() / 60
    correlation = evaluation.summary["dimensions"]["overall"]["correlation"]
    assert correlation["spearman"] == pytest.approx(float(expected))
    assert correlation["num_videos"] == 4
    assert evaluation.summary["dimensions"]["overall"]["without_ties"] is None


def test_options_out_of_range_are_refused(export, benchmark, tmp_path):
    for options in ({"shard": (3, 2)}, {"limit": 0}, {"max_batch_tokens": 0}, {"num_thoughts": 0}):
        with pytest.raises(ValueError, match="expected"):
            again(export, benchmark, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
