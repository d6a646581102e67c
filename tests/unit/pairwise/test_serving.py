"""A server with a model that compares two videos: the record that Python gives, and what other routes say."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from descore.client import AsyncClient, Client, ClientError
from descore.pairwise.comparison import Comparison, Order
from descore.serving.schemas import ComparisonRecord, OrderRecord
from tests.helpers.serving import Running, serving


@pytest.fixture(scope="module")
def server(judge_export: str, clips: list[str]) -> Iterator[Running]:
    with serving(judge_export, "--allow-root", Path(clips[0]).parent, "--max-items", 8) as running:
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


def compare(url, *asked, awaited, options=None, **how):
    async def run():
        async with AsyncClient(url, **(options or {})) as client:
            return await client.compare(*asked, **how)

    if awaited:
        return asyncio.run(run())
    with Client(url, **(options or {})) as client:
        return client.compare(*asked, **how)


def assert_same(found, expected):
    assert [one.verdict for one in found] == [one.verdict for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.p_a, one.p_tie, one.p_b) == pytest.approx((other.p_a, other.p_tie, other.p_b), abs=1e-5)
        assert len(one.orders) == len(other.orders)


def test_a_batch_of_pairs_fails_pair_by_pair(server, comparer, clips):
    def pair(a, b):
        return {"prompt": "a bar", "video_a": a, "video_b": b}

    one, two = {"path": clips[0]}, {"path": clips[1]}
    items = [pair(one, two), pair(one, {"path": "gone.mp4"}), pair({"base64": "AAAA"}, two), pair(two, one)]
    found = [Comparison.from_json(one) for one in server.post("/compare/batch", {"items": items}).json()["comparisons"]]
    assert [one.verdict is None for one in found] == [False, True, True, False]
    assert "expected a file under a folder" in found[1].error
    assert found[2].error.startswith("video: "), "not the path of the server's own copy"
    assert_same([found[0], found[3]], comparer.compare([clips[0], clips[1]], [clips[1], clips[0]], "a bar"))
    assert server.post("/compare/batch", {"items": items * 2}).status_code == 422, "eight pairs are sixteen videos"
    assert server.post("/compare/batch", {"items": []}).json() == {"comparisons": []}


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_both_clients_compare_as_python_does(server, comparer, clips, awaited):
    options = {"batch_size": 5, "concurrency": 2}  # two pairs a request
    found = compare(server.url, [*clips, "nowhere.mp4"], clips[3], "a bar", awaited=awaited, options=options)
    assert_same(found[:-1], comparer.compare(clips, clips[3], "a bar"))
    assert (found[-1].verdict, found[-1].orders) == (None, ())
    assert "nowhere.mp4" in found[-1].error
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 48, 3), dtype=np.uint8)
    pair = [frames[0]], [frames[1]], "a bar"
    assert_same(compare(server.url, *pair, awaited=awaited, fps=8), comparer.compare(*pair, fps=8))
    with pytest.raises(ClientError, match="expected a model of"):
        compare(server.url, *pair, awaited=awaited, fps=8, options={"model": "other"})
    assert compare(server.url, [], [], [], awaited=awaited) == []
