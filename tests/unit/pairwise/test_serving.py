"""A server with a model that compares two videos: the record that Python gives, and what other routes say."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from descore.pairwise.comparison import Comparison, Order
from descore.serving.schemas import ComparisonRecord, OrderRecord
from tests.helpers.serving import Running, serving


@pytest.fixture(scope="module")
def server(judge_export: str, clips: list[str]) -> Iterator[Running]:
    with serving(judge_export, "--allow-root", Path(clips[0]).parent) as running:
        yield running


def test_the_record_over_http_is_the_comparison_record():
    assert set(ComparisonRecord.model_fields) == set(Comparison.__slots__)
    assert set(OrderRecord.model_fields) == set(Order.__slots__)


def test_two_videos_are_compared_as_in_python(server, comparer, clips):
    body = {"prompt": "a bar", "video_a": {"path": clips[0]}}
    sent = base64.b64encode(Path(clips[1]).read_bytes()).decode()
    (expected,) = comparer.compare(clips[0], clips[1], "a bar")
    for video_b in ({"path": clips[1]}, {"base64": sent}):
        answer = server.post("/compare", body | {"video_b": video_b})
        assert answer.status_code == 200
        assert answer.json() == expected.to_json() | {"orders": answer.json()["orders"]}
        assert Comparison.from_json(answer.json()).orders == expected.orders


def test_what_cannot_be_compared_or_scored_says_why(server, clips):
    gone = str(Path(clips[0]).with_name("gone.mp4"))
    body = {"prompt": "a bar", "video_a": {"path": clips[0]}}
    found = server.post("/compare", body | {"video_b": {"path": gone}}).json()
    assert found["verdict"] is None
    assert "expected a file under a folder that the server allows" in found["error"]
    scored = server.post("/score", {"prompt": "a bar", "video": {"path": clips[0]}}).json()
    assert scored["reward"] is None
    assert "POST /compare" in scored["error"]
    assert server.post("/compare", body).status_code == 422
    assert "/compare" in server.get("/openapi.json").json()["paths"]
