"""The life of a server: too much work, a worker that is killed, a client that goes, and the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.commands import refused
from tests.helpers.serving import Running, serving

PROMPT = "a bright bar moves"


def question(clips: list[str], number: int = 0) -> dict[str, object]:
    return {"prompt": f"{PROMPT} {number}", "video": {"path": clips[number % len(clips)]}, "num_thoughts": 4}


def options(clips: list[str]) -> list[object]:
    return ["--allow-root", Path(clips[0]).parent]


@pytest.fixture(scope="module")
def server(export: str, clips: list[str]) -> Iterator[Running]:
    with serving(export, *options(clips), "--max-queue", 12) as running:
        yield running


def until(is_so: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_above_the_queue_is_told_to_come_later_and_the_rest_is_scored(server, clips):
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda number: server.post("/score", question(clips, number)), range(120)))
    scored = [answer for answer in answers if answer.status_code == 200]
    busy = [answer for answer in answers if answer.status_code == 429]
    assert len(scored) + len(busy) == 120
    assert len(scored) >= 12
    assert busy
    assert all(answer.json()["reward"] is not None for answer in scored)
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in busy)
    items = [question(clips) | {"num_thoughts": 1}] * 13
    items = [{key: item[key] for key in ("prompt", "video")} for item in items]
    assert server.post("/score/batch", {"items": items}).status_code == 429


def test_a_killed_worker_is_replaced_and_what_it_had_is_answered(server, clips):
    (before,) = server.workers()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.post, "/score", question(clips, number)) for number in range(8)]
        until(lambda: server.metric("descore_running_videos") > 0)
        os.kill(before, signal.SIGKILL)
        records = [answer.result().json() for answer in answers]
    assert all(record["reward"] is not None for record in records)
    assert server.workers() != [before]
    assert server.metric("descore_worker_deaths_total") == 1
    assert server.is_alive()


def test_the_work_for_a_client_that_has_gone_is_dropped(server, clips):
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(server.post, "/score", question(clips, number)) for number in range(6)]
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            body = b'{"prompt": "gone", "video": {"path": "0.mp4"}, "num_thoughts": 4}'
            head = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
        assert all(answer.result().status_code == 200 for answer in answers)
    until(lambda: server.metric("descore_running_videos") + server.metric("descore_queue_videos") == 0)


def test_a_server_that_is_stopped_finishes_what_it_accepted_and_takes_nothing_new(server, clips):
    body = json.dumps(question(clips)).encode()
    head = b"POST /score HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ThreadPoolExecutor(8) as pool, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body[:10])  # the server cannot end before it has the rest
        items = [{key: question(clips, number)[key] for key in ("prompt", "video")} for number in range(8)]
        answer = pool.submit(server.post, "/score/batch", {"items": items, "num_thoughts": 4})
        until(lambda: server.metric("descore_running_videos") > 0)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/ready").status_code == 503)
        late = server.post("/score", question(clips))
        assert (late.status_code, late.json()["error"]) == (503, "the server is stopping")
        assert all(record["reward"] is not None for record in answer.result().json()["scores"])
        connection.sendall(body[10:])
        said = b"".join(iter(lambda: connection.recv(4096), b""))
    assert said.startswith(b"HTTP/1.1 200")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["reward"] is not None
    assert server.process.wait(30) == 0


def test_one_that_starts_answers_503_and_an_interrupt_ends_it_with_130(export, clips):
    with serving(export, *options(clips), ready=False) as starting:
        answer = starting.post("/score", question(clips))
        assert (answer.status_code, int(answer.headers["Retry-After"])) == (503, 5)
        assert starting.get("/health").status_code == 200
        assert starting.get("/ready").json()["reason"] == "the models are being loaded: try again later"
        assert starting.stop(signal.SIGINT) == 130


def test_what_cannot_start_is_told_in_one_line(capsys, export, tmp_path):
    serve = ("serve", "--device", "cpu", "--port", 0)
    refused(capsys, "nothing", *serve, "--model", tmp_path / "nothing")
    refused(capsys, "NAME=FOLDER", *serve, "--model", export, "--model", export)
    refused(capsys, "--api-key-env NAME", *serve, "--model", export, "--host", "0.0.0.0")
    refused(capsys, "not set", *serve, "--model", export, "--api-key-env", "NO_SUCH_KEY")
    refused(capsys, "expected a folder", *serve, "--model", export, "--allow-root", tmp_path / "gone")
    refused(capsys, "above 0", *serve, "--model", export, "--max-queue", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(capsys, "try another port", *serve[:-1], port, "--model", export)
