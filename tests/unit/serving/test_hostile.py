"""Hostile requests: each is answered as specified, and the server goes on as before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.hostile_requests import HOSTS, Hostile, ask, every
from tests.helpers.serving import Running, serving

LIMITS = {"body-mb": 2, "seconds": 10, "frames": 100, "body-seconds": 1, "header-seconds": 1, "thoughts": 4}
NUM_REQUESTS = 80


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def server(export: str, root: Path) -> Iterator[Running]:
    options = [word for name, value in LIMITS.items() for word in (f"--max-{name}", value)]
    hosts = [word for host in HOSTS for word in ("--allow-host", host.strip("[]"))]
    with serving(export, "--allow-root", root, *options, *hosts) as running:
        yield running


@pytest.fixture(scope="module")
def requests(root: Path, server: Running, clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Hostile]:
    folder = tmp_path_factory.mktemp("secret")
    secret = folder / "secret.mp4"
    secret.write_bytes(Path(clips[0]).read_bytes())
    return every(root, secret, server.port)


def resident(server: Running) -> int:
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (server.process.pid, *server.workers())]
    return sum(pages)


def handles(server: Running) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def test_each_is_answered_as_specified_and_the_server_goes_on(server, requests, root, clips):
    assert len(requests) >= NUM_REQUESTS
    (root / "good.mp4").write_bytes(Path(clips[0]).read_bytes())
    good = {"prompt": "a bar", "video": {"path": "good.mp4"}}
    before = server.post("/score", good).json()
    assert before["reward"] is not None
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda hostile: ask(server, hostile), requests))
    wrong = [
        f"{hostile.name}: expected {hostile.right}, got {status}"
        for hostile, status in zip(requests, found, strict=True)
        if status not in hostile.right
    ]
    assert not wrong, "\n".join(wrong)
    workers, memory, files = server.workers(), resident(server), handles(server)
    with ThreadPoolExecutor(4) as pool:  # the same again takes no more memory and leaves no file open
        list(pool.map(lambda hostile: ask(server, hostile), [one for one in requests if one.kind != "raw"]))
    assert server.workers() == workers
    assert resident(server) < 1.1 * memory
    assert handles(server) <= files + 8  # connections that are still open
    assert server.post("/score", good).json() == before
    assert server.metric("descore_held_bytes") == 0
    assert not list(Path.cwd().glob("CANARY"))


def test_a_path_is_refused_with_the_same_words_whether_it_exists_or_not(server, requests):
    paths = [hostile.content for hostile in requests if hostile.kind == "path"]
    said = {server.post("/score", path).json()["error"] for path in paths}
    assert said == {"path: expected a file under a folder that the server allows (--allow-root)"}


def test_200_bad_requests_at_once_do_not_keep_a_good_one_from_its_answer(server, root, clips):
    (root / "good.mp4").write_bytes(Path(clips[0]).read_bytes())
    bad = [{"prompt": "p", "video": {"base64": "AAAA" * 1000}}, {"prompt": 1}] * 100
    memory = 0
    for _ in range(2):  # the first round warms up
        before, memory = memory, 0
        with ThreadPoolExecutor(32) as pool:
            answers = [pool.submit(server.post, "/score", body) for body in bad]
            good = server.post("/score", {"prompt": "a bar", "video": {"path": "good.mp4"}})
            assert {one.result().status_code for one in answers} <= {200, 422, 429}
        assert good.json()["reward"] is not None
        memory = resident(server)
    assert memory < 1.1 * before
