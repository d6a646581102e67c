"""Both clients: the same records as Python, in order, whatever the server does meanwhile."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from descore.client import AsyncClient, Client, ClientError
from descore.scoring.folder import ScoringError
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from tests.helpers.serving import Running, serving

PROMPT = "a bright bar moves"
KEY = "a-key-of-the-test"
Ask = Callable[..., list[Score]]


@pytest.fixture(scope="module")
def server(export: str, clips: list[str]) -> Iterator[Running]:
    options = ("--allow-root", Path(clips[0]).parent, "--api-key-env", "TEST_KEY", "--max-body-mb", 1)
    with serving(export, *options, TEST_KEY=KEY) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Score with either client: `ask(url, videos, prompts, options={...}, **how)`."""

    def sync(url: str, *question: Any, options: dict[str, Any] | None = None, **how: Any) -> list[Score]:
        with Client(url, **{"api_key": KEY, "backoff": 0.01, **(options or {})}) as client:
            return client.score(*question, **how)

    def awaited(url: str, *question: Any, options: dict[str, Any] | None = None, **how: Any) -> list[Score]:
        async def run() -> list[Score]:
            async with AsyncClient(url, **{"api_key": KEY, "backoff": 0.01, **(options or {})}) as client:
                return await client.score(*question, **how)

        return asyncio.run(run())

    return sync if request.param == "sync" else awaited


def test_one_video_is_scored_as_in_python_to_the_bit(ask, server, scorer: Scorer, clips):
    for video, options in ((clips[0], {}), (Path(clips[0]).read_bytes(), {}), (clips[0], {"send_paths": True})):
        assert ask(server.url, video, PROMPT, options=options) == scorer.score(clips[0], PROMPT)
    assert ask(server.url, clips[0], PROMPT, thought="") == scorer.score(clips[0], PROMPT, thought="")
    (three,) = ask(server.url, clips[0], PROMPT, 3)
    assert len(three.each) == 3


def test_frames_in_memory_travel_without_loss(ask, server, scorer: Scorer, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
    expected = scorer.score(pixels, PROMPT, fps=8)
    for index, frame in enumerate(pixels):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    kinds = [
        pixels,
        torch.from_numpy(pixels).permute(0, 3, 1, 2),
        torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255,
        [Image.fromarray(frame) for frame in pixels],
        tmp_path,
    ]
    assert [ask(server.url, video, PROMPT, fps=8) for video in kinds] == [expected] * 5


def test_many_are_scored_in_order_and_bad_ones_are_errors(ask, server, scorer: Scorer, clips, tmp_path):
    (tmp_path / "large.mp4").write_bytes(Path(clips[0]).read_bytes() + bytes(2**20))
    videos = [*clips, "gone.mp4", b"none", np.zeros((4, 8, 8, 3), np.uint8), str(tmp_path / "large.mp4"), *clips]
    prompts = [f"{PROMPT} {index}" for index in range(len(videos))]
    scores = ask(server.url, videos, prompts, options={"batch_size": 3, "concurrency": 2})
    good = [*range(4), *range(8, 12)]
    expected = scorer.score([videos[index] for index in good], [prompts[index] for index in good])
    found = [scores[index] for index in good]
    assert [score.reward for score in found] == pytest.approx([score.reward for score in expected], abs=1e-5)
    assert [score.thought for score in found] == [score.thought for score in expected]
    reasons = ("No such file", "expected", "frame rate", "413")
    for score, reason in zip(scores[4:8], reasons, strict=True):
        assert math.isnan(score.reward)
        assert reason in score.error


def test_a_request_that_is_refused_is_an_error(ask, server, clips):
    with pytest.raises(ClientError, match="status 401"):
        ask(server.url, clips, PROMPT, options={"api_key": "wrong"})
    with pytest.raises(ClientError, match="expected a model of descore"):
        ask(server.url, clips, PROMPT, options={"model": "other"})
    with pytest.raises(ScoringError, match="one prompt per video"):
        ask(server.url, clips, [PROMPT])
    with pytest.raises(ValueError, match="url: expected an address"):
        ask("localhost:8000", clips, PROMPT)
    assert ask(server.url, [], []) == []


class Scripted:
    """A server that gives the answers of a script, in turn, and then scores every video with 1, 2, ..."""

    def __init__(self, *script: tuple[int, dict[str, str], bytes] | None) -> None:
        self.script, self.times, self.bodies = list(script), list[float](), list[dict[str, Any]]()
        lock, outer = Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.times.append(time.monotonic())
                    outer.bodies.append(body)
                    said = outer.script.pop(0) if outer.script else outer.scores(body)
                if said is None:  # break off
                    self.close_connection = True
                    return
                status, headers, content = said
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def scores(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        records = [Score(float(item["prompt"])).to_json() for item in body["items"]]
        return 200, {}, json.dumps({"scores": records}).encode()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_busy_server_is_asked_again_when_it_says(ask):
    with Scripted((429, {"Retry-After": "1"}, b"{}"), (503, {}, b"not JSON"), None) as server:
        assert ask(server.url, [b"a"], "7")[0].reward == 7
        assert len(server.times) == 4
        assert server.times[1] - server.times[0] >= 1


def test_a_server_that_stays_busy_or_away_is_an_error_and_never_a_number(ask):
    with (
        Scripted(*[(503, {}, b'{"error": "stopping"}')] * 9) as server,
        pytest.raises(ClientError, match="status 503: stopping, after 3 tries"),
    ):
        ask(server.url, [b"a"], "1", options={"retries": 2})
    with pytest.raises(ClientError, match="after 2 tries"):
        ask(server.url, [b"a"], "1", options={"retries": 1})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"scores": []}',
        b'{"scores": [{}]}',
        b'{"scores": [{"reward": null}]}',
        b'{"scores": [{"reward": "1"}]}',
        b'{"scores": [{"reward": NaN}]}',
        b'{"scores": [{"reward": true}]}',
        b'{"scores": [3]}',
        b'{"scores": {"0": {"reward": 1}}}',
        b'{"scores": [{"reward": 1, "error": "it broke"}]}',
        b'{"scores": [{"reward": "1", "error": "it broke"}]}',
    ],
)
def test_an_answer_that_is_none_is_an_error(ask, content):
    with Scripted((200, {}, content)) as server, pytest.raises(ClientError, match="expected"):
        ask(server.url, [b"a"], "1")


def test_a_batch_that_is_too_large_is_sent_in_halves(ask):
    with Scripted((413, {}, b"{}"), (413, {}, b"{}")) as server:
        scores = ask(server.url, [b"a"] * 4, ["1", "2", "3", "4"], options={"concurrency": 1})
        assert [score.reward for score in scores] == [1, 2, 3, 4]
        assert [len(body["items"]) for body in server.bodies] == [4, 2, 1, 1, 2]


def test_batches_are_bounded_in_number_and_bytes_and_each_different_video_is_sent_once(ask):
    videos = [bytes([index]) * 30_000 for index in (0, 1, 0, 2, 3, 4)]
    prompts = ["1", "2", "1", "3", "4", "5"]
    with Scripted() as server:
        scores = ask(server.url, videos, prompts, options={"batch_mb": 0.1, "concurrency": 1})
        assert [score.reward for score in scores] == [1, 2, 1, 3, 4, 5]
        assert [len(body["items"]) for body in server.bodies] == [2, 2, 1]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"verdict": None},
        {"verdict": "A"},
        {"verdict": "C", "p_a": 1, "p_tie": 0, "p_b": 0},
        {"verdict": "A", "p_a": True, "p_tie": 0, "p_b": 0},
        {"verdict": "A", "p_a": 1.0, "p_tie": 0.0, "p_b": 0.0, "error": "it broke"},
    ],
)
def test_a_comparison_that_is_none_is_an_error(record):
    answer = json.dumps({"comparisons": [record]}).encode()
    with (
        Scripted((200, {}, answer)) as server,
        Client(server.url) as client,
        pytest.raises(ClientError, match="expected a reward, a verdict or an error"),
    ):
        client.compare(b"a", b"b", "a cat")


def test_a_pair_counts_as_two_videos_and_is_halved_with_its_like():
    def said(*verdicts):
        chances = {"p_a": 1.0, "p_tie": 0.0, "p_b": 0.0}
        return 200, {}, json.dumps({"comparisons": [chances | {"verdict": one} for one in verdicts]}).encode()

    script = (413, {}, b"{}"), said("A"), said("B"), said("tie")
    with Scripted(*script) as server, Client(server.url, batch_size=5, concurrency=1) as client:
        found = client.compare([b"a", b"b", b"c"], b"d", ["1", "2", "3"])
    assert [one.verdict for one in found] == ["A", "B", "tie"]
    assert [[item["prompt"] for item in body["items"]] for body in server.bodies] == [["1", "2"], ["1"], ["2"], ["3"]]
