"""Commands on a model that compares two videos: evaluate, report, rank, and what they refuse."""

import json
import math
from pathlib import Path

import pytest

from descore.cli import main
from descore.evaluation.folder import Evaluation, load_evaluation
from descore.report.evaluations import report_on
from tests.helpers.commands import refused


@pytest.fixture(scope="module")
def folder(judge_export: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation on four pairs."""
    output = tmp_path_factory.mktemp("evaluation") / "run"
    args = ["--model", judge_export, "--device", "cpu", "--table", str(data / "pairs.jsonl")]
    assert main(["evaluate", *args, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> Evaluation:
    return load_evaluation(folder)


def test_margins_are_probabilities_of_the_scorer(evaluation, comparer, data):
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    a, b = ([str(data / pair[f"video_{side}"]) for pair in pairs] for side in "ab")
    found = comparer.compare(a, b, [pair["prompt"] for pair in pairs])
    assert evaluation.margins("overall").tolist() == pytest.approx([one.margin for one in found], abs=1e-4)
    assert [one["verdict"] for one in evaluation.comparisons] == [one.verdict for one in found]
    assert evaluation.info["protocol"]["kind"] == "pairwise"


def test_the_summary_counts_verdicts_and_orders(evaluation):
    numbers = evaluation.summary["dimensions"]["overall"]
    found, labels = evaluation.comparisons, ["A", "tie", "B", "A"]
    right = [one["verdict"] == label for one, label in zip(found, labels, strict=True)]
    assert numbers["choices"] == pytest.approx({
        "accuracy": sum(right) / 4,
        "num_labelled": 4,
        "p_tie": sum(one["p_tie"] for one in found) / 4,
        "order_disagreement": sum(one["order_disagreement"] for one in found) / 4,
        "verdict_changes": sum(one["verdict_changes"] for one in found) / 4,
    })
    decided = [one["p_a"] > one["p_b"] for one in (found[0], found[3])] + [found[2]["p_b"] > found[2]["p_a"]]
    assert numbers["without_ties"] == pytest.approx(sum(decided) / 3)
    assert numbers["hacking"] is None
    assert numbers["correlation"] is None


def test_what_is_printed_speaks_of_orders(folder, judge_export, data, capsys):
    args = ["--model", judge_export, "--device", "cpu", "--table", str(data / "pairs.jsonl")]
    assert main(["evaluate", *args, "--output", str(folder)]) == 0, "nothing is left to do"
    printed = " ".join(capsys.readouterr().out.split())
    assert "change with the order of the videos" in printed
    assert "mean P(tie) 0." in printed
    assert "0 of 4 pairs failed" in printed


def test_the_page_has_probabilities_and_orders(folder):
    page = report_on([folder])
    (table,) = (table for table in page.sections[0].tables if table.caption == "Compared in both orders")
    assert len(table.rows) == 1
    side = page.viewer.data["pairs"][0]["calls"][0]["sides"][0]
    assert side["measure"] == "P(A better)"
    assert 0 <= side["reward"] <= 1
    assert 0 <= side["p_tie"] <= 1


def test_rank_compares_each_two(judge_export, comparer, clips, capsys):
    assert main(["rank", "--model", judge_export, "--device", "cpu", "--prompt", "a bar", "--json", *clips[:3]]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rewards = [record["reward"] for record in records]
    assert rewards == sorted(rewards, reverse=True)
    assert sum(rewards) == pytest.approx(0, abs=1e-6)
    (found,) = comparer.compare(records[0]["video"], records[1]["video"], "a bar")
    assert records[0]["probability"] == pytest.approx(found.p_a + found.p_tie / 2, abs=1e-5)


def test_rank_against_a_reference(judge_export, comparer, clips, capsys):
    args = ["rank", "--model", judge_export, "--device", "cpu", "--prompt", "a bar", "--reference", clips[3], "--json"]
    assert main([*args, *clips[:2]]) == 0
    found = {record["video"]: record["reward"] for record in map(json.loads, capsys.readouterr().out.splitlines())}
    for clip in clips[:2]:
        (expected,) = comparer.compare(clip, clips[3], "a bar")
        assert found[clip] == pytest.approx(expected.p_a + expected.p_tie / 2, abs=1e-5)


def test_what_needs_the_other_judgement_says_what_to_do(judge_export, export, clips, data, tmp_path, capsys):
    one, table = ["--model", judge_export, "--device", "cpu"], str(data / "pairs.jsonl")
    refused(capsys, "compares two videos.*descore rank", "score", *one, "--prompt", "a bar", clips[0])
    refused(capsys, "compares two videos", "score", *one, "--output", str(tmp_path / "scored.csv"), table)
    refused(capsys, "give several, or one and --reference", "rank", *one, "--prompt", "a bar", clips[0])
    swapped = ["--table", table, "--output", str(tmp_path / "run"), "--swap-prompts"]
    refused(capsys, "leave out --swap-prompts", "evaluate", *one, *swapped)
    two = ["--model", export, "--device", "cpu", "--prompt", "a bar", "--reference", clips[0], clips[1]]
    refused(capsys, "are for models that compare two videos", "rank", *two)


def test_a_pair_that_fails_is_counted_and_has_no_margin(judge_export, data, tmp_path, capsys):
    rows = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    rows[1]["video_b"] = "videos/gone.mp4"
    (data / "gone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--model", judge_export, "--device", "cpu", "--table", str(data / "gone.jsonl"), "--skip-missing"]
    assert main(["evaluate", *args, "--output", str(tmp_path / "run")]) == 1
    found = load_evaluation(tmp_path / "run")
    assert [math.isnan(margin) for margin in found.margins("overall").tolist()] == [False, True, False, False]
    assert found.summary["num_failed_pairs"] == 1
    assert "num_failed_videos" not in found.summary
    assert "1 of 4 pairs failed" in capsys.readouterr().out
    assert "gone.mp4" in next(iter(found.summary["errors"]))
