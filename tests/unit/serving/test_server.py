"""A real server: what it answers is what Python gives, one bad video fails alone, and its limits hold."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table

from descore.cli import main
from descore.integrations.ray import ScoreBatch
from descore.scoring.folder import plain
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from descore.serving.schemas import ScoreRecord
from descore.tables.writer import write_rows
from tests.helpers.serving import Running, serving

PROMPT = "a bright bar moves"


@pytest.fixture(scope="module")
def server(export: str, clips: list[str]) -> Iterator[Running]:
    with serving(export, "--allow-root", Path(clips[0]).parent, "--max-thoughts", 4) as running:
        yield running


def in_base64(path: str) -> dict[str, str]:
    return {"base64": base64.b64encode(Path(path).read_bytes()).decode()}


def python(scorer: Scorer, *question: Any, **options: Any) -> dict[str, Any]:
    return plain(scorer.score(*question, **options)[0].to_json())


def test_every_way_to_send_a_video_gives_what_python_gives_to_the_bit(server, scorer, clips):
    expected = python(scorer, clips[0], PROMPT)
    files = {"video": ("a.mp4", Path(clips[0]).read_bytes())}
    answers = [
        server.post("/score", {"prompt": PROMPT, "video": {"path": clips[0]}}),
        server.post("/score", {"prompt": PROMPT, "video": {"path": "0.mp4"}}),
        server.post("/score", {"prompt": PROMPT, "video": in_base64(clips[0])}),
        server.post("/score", data={"prompt": PROMPT}, files=files),
        server.post("/score", {"prompt": PROMPT, "video": in_base64(clips[0]), "model": "descore"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert [answer.json() for answer in answers] == [expected] * 5


def test_a_video_is_worth_the_same_over_http_in_python_on_the_command_line_and_in_ray(
    server, export, scorer, clips, tmp_path
):
    rows, output = [{"prompt": PROMPT, "video": clips[1]}], tmp_path / "scores.csv"
    write_rows(tmp_path / "videos.csv", rows)
    main(["score", str(tmp_path / "videos.csv"), "--model", export, "--device", "cpu", "--output", str(output)])
    with output.open() as file:
        (on_the_command_line,) = csv.DictReader(file)
    (in_ray,) = ScoreBatch(export, device="cpu")(Table.from_pylist(rows)).to_pylist()
    over_http = server.post("/score", {"prompt": PROMPT, "video": {"path": clips[1]}}).json()
    (in_python,) = scorer.score(clips[1], PROMPT)
    assert in_python.reward == over_http["reward"] == float(on_the_command_line["reward"]) == in_ray["reward"]


def test_several_thoughts_a_given_one_and_none_are_those_of_python(server, scorer, clips):
    for options in ({"num_thoughts": 3}, {"thought": "the bar"}, {"thought": ""}, {"temperature": 0.5}):
        answer = server.post("/score", {"prompt": PROMPT, "video": {"path": clips[1]}, **options}).json()
        expected = python(scorer, clips[1], PROMPT, **options)
        assert answer["reward"] == pytest.approx(expected["reward"], abs=1e-5)
        assert [one["thought"] for one in answer["each"]] == [one["thought"] for one in expected["each"]]


def test_a_batch_is_in_order_and_a_bad_video_fails_alone(server, scorer, clips):
    bad = {"base64": base64.b64encode(Path(clips[0]).read_bytes()[:900]).decode()}
    videos = [{"path": clips[0]}, bad, {"path": clips[1]}, {"base64": "no base64!"}, {"path": "gone.mp4"}]
    items = [{"prompt": PROMPT, "video": video} for video in videos]
    items.append({"prompt": "  ", "video": {"path": clips[2]}})
    scores = server.post("/score/batch", {"items": items}).json()["scores"]
    expected = [score.reward for score in scorer.score([clips[0], clips[1]], PROMPT)]
    assert [scores[0]["reward"], scores[2]["reward"]] == pytest.approx(expected, abs=1e-5)
    for index, reason in ((1, "video: "), (3, "base64"), (4, "--allow-root"), (5, "blank")):
        assert scores[index]["reward"] is None
        assert reason in scores[index]["error"]
        assert "descore-serve-" not in scores[index]["error"]


def test_the_state_is_told(server):
    assert server.get("/health").json()["status"] == "ok"
    assert server.get("/ready").json() == {"ready": True, "models": ["descore"], "reason": None}
    assert server.metric("descore_items_total") > 0
    assert server.metric("descore_ready_workers") == 1


def test_openapi_documents_the_bodies_and_the_refusals(server):
    described = server.get("/openapi.json").json()
    for path in ("/score", "/score/batch"):
        route = described["paths"][path]["post"]
        assert {"200", "401", "413", "422", "429", "503"} <= route["responses"].keys()
        name = route["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert name in described["components"]["schemas"]


def test_the_record_over_http_is_the_score_record():
    assert set(ScoreRecord.model_fields) == {*Score.__slots__}
    assert json.loads(ScoreRecord(reward=float("nan")).model_dump_json())["reward"] is None
