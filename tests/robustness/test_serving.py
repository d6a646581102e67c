"""The server under load: many clients, killed workers, bodies of any shape, and a soak; DESCORE_SOAK says how long.

The soak is an hour where there is one to spare: DESCORE_SOAK=3600. Unless told, it takes a minute.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from descore.client import Client
from descore.scoring.scorer import Scorer
from tests.helpers.killing import num_kills
from tests.helpers.serving import Running, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
NUM_REQUESTS, NUM_CLIENTS, NUM_PROMPTS = 2000, 64, 50
SOON = 10.0
"""Seconds within which a server that is busy must say so, on a machine that is busy too."""


@pytest.fixture(scope="module")
def export(build: Callable, tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.helpers.examples import export_model

    return export_model(build(max_thought_tokens=4), tmp_path_factory.mktemp("model") / "export")


@pytest.fixture(scope="module")
def expected(export: str, clips: list[str]) -> dict[tuple[str, str], float]:
    """The reward that Python gives to each video with each prompt."""
    asked = [(clip, f"a bar {number}") for clip in clips for number in range(NUM_PROMPTS)]
    scores = Scorer(export, device="cpu").score([clip for clip, _ in asked], [prompt for _, prompt in asked])
    return {one: score.reward for one, score in zip(asked, scores, strict=True)}


def ask(server: Running, expected: dict[tuple[str, str], float], number: int) -> str | None:
    """Ask for one of the videos; return what is wrong with the answer, if anything."""
    clip, prompt = list(expected)[number % len(expected)]
    answer = server.post("/score", {"prompt": prompt, "video": {"path": clip}})
    if answer.status_code != 200 or answer.json()["reward"] != pytest.approx(expected[clip, prompt], abs=1e-4):
        return f"{prompt}: {answer.status_code} {answer.text[:200]}"
    return None


def timed(server: Running, clip: str, prompt: str) -> tuple[Response, float]:
    """Ask for a video; return the answer, and the seconds until it came."""
    began = time.monotonic()
    answer = server.post("/score", {"prompt": prompt, "video": {"path": clip}})
    return answer, time.monotonic() - began


def test_2000_requests_of_64_clients_are_all_answered_as_in_python(export, clips, expected):
    with (
        serving(export, "--allow-root", Path(clips[0]).parent) as server,
        ThreadPoolExecutor(NUM_CLIENTS) as pool,
    ):
        wrong = [one for one in pool.map(lambda number: ask(server, expected, number), range(NUM_REQUESTS)) if one]
        assert not wrong, wrong[:3]
        assert server.metric("descore_batch_videos_sum") / server.metric("descore_batch_videos_count") > 1.5


def test_ten_times_as_much_as_the_queue_takes_is_refused_at_once_and_memory_stays(export, clips, expected):
    queue = 32
    with (
        serving(export, "--allow-root", Path(clips[0]).parent, "--max-queue", queue) as server,
        ThreadPoolExecutor(10 * queue) as pool,
    ):
        refusals, memory = 0, []
        for _ in range(4):  # the first round warms up
            asked = list(islice(cycle(expected), 10 * queue))
            answers = list(pool.map(lambda one: timed(server, *one), asked))
            for (clip, prompt), (answer, seconds) in zip(asked, answers, strict=True):
                if answer.status_code == 429:
                    refusals += 1
                    assert int(answer.headers["Retry-After"]) >= 1
                    assert seconds < SOON
                else:
                    assert answer.json()["reward"] == pytest.approx(expected[clip, prompt], abs=1e-4)
            memory.append(state(server)["pages"])
        assert refusals > 4 * queue
        assert memory[-1] < 1.1 * memory[0]
        assert server.metric("descore_queue_videos") == server.metric("descore_held_bytes") == 0


def test_workers_that_are_killed_at_random_moments_lose_nothing(export, clips, expected):
    random.seed(0)
    with (
        serving(export, "--allow-root", Path(clips[0]).parent, "--device", "cpu") as server,
        Client(server.url, send_paths=True, batch_size=8) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        for _ in range(num_kills(5)):
            scores = pool.submit(client.score, [clip for clip, _ in expected], [prompt for _, prompt in expected])
            time.sleep(random.uniform(0.1, 2.0))
            os.kill(random.choice(server.workers()), signal.SIGKILL)
            rewards = [score.reward for score in scores.result()]
            assert rewards == pytest.approx(list(expected.values()), abs=1e-4)


KEYS = ("prompt", "video", "num_thoughts", "temperature", "model", "thought", "path", "base64", "url", "frames", "fps")
KEYS += ("items", "requests", "history", "text", "video_b64", "video_path", "required_rewards", "query", "prompts")
KEYS += ("messages", "role", "content", "type", "video_url", "image_url", "stream")
VALUES = (
    "p",
    "0.mp4",
    "AAAA",
    "user",
    "descore",
    "data:,AAAA",
    "http://localhost/",
    "text",
    "video_url",
    "\0",
    "\ud800",
)
ROUTES = ("/score", "/score/batch", "/compute", "/unirl/score", "/get_reward", "/v1/chat/completions")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(VALUES) | st.text(max_size=20)
BODIES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
ITEM = st.fixed_dictionaries(
    {
        "prompt": SCALARS,
        "video": st.dictionaries(st.sampled_from(("path", "base64", "url", "fps")), SCALARS, max_size=2),
    },
    optional={"num_thoughts": st.integers(-1, 3), "temperature": st.floats(), "thought": SCALARS, "model": SCALARS},
)
SHAPES = {
    "/score": ITEM,
    "/score/batch": st.fixed_dictionaries({"items": st.lists(ITEM, max_size=3)}),
    "/compute": st.fixed_dictionaries(
        {"prompt": st.lists(SCALARS, max_size=2), "video": st.lists(st.lists(SCALARS, max_size=3), max_size=2)},
        optional={"fps": SCALARS},
    ),
    "/get_reward": st.fixed_dictionaries({
        "query": st.lists(SCALARS, max_size=2),
        "prompts": st.lists(SCALARS, max_size=2),
    }),
}


@pytest.fixture(scope="module")
def open_server(export: str, clips: list[str]) -> Iterator[Running]:
    with serving(export, "--allow-root", Path(clips[0]).parent) as server:
        yield server


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_body_is_answered_with_an_error_of_the_server(open_server, data):
    route = data.draw(st.sampled_from(ROUTES))
    body = data.draw(BODIES | SHAPES[route] if route in SHAPES else BODIES)
    answer = open_server.post(route, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code in {200, 422}
    json.loads(answer.text, parse_constant=pytest.fail)  # JSON has no NaN


def state(server: Running) -> dict[str, int]:
    """Return the resident pages, open files and child processes of the server and its workers."""
    pids = [server.process.pid, *server.workers()]
    return {
        "pages": sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids),
        "files": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        "children": sum(
            len(Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            for pid in pids
            for task in os.listdir(f"/proc/{pid}/task")
        ),
    }


def test_a_soak_leaves_memory_files_and_children_as_they_were(export, clips, expected, tmp_path):
    seconds = float(os.environ.get("DESCORE_SOAK", 60))
    bad = {"prompt": "p", "video": {"base64": "AAAA" * 1000}}
    with (
        serving(export, "--allow-root", Path(clips[0]).parent) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        states: list[dict[str, int]] = []
        start = time.monotonic()
        while (spent := time.monotonic() - start) < seconds or len(states) < 3:
            wrong = [one for one in pool.map(lambda number: ask(server, expected, number), range(100)) if one]
            assert not wrong, wrong[:3]
            assert server.post("/score", bad).json()["reward"] is None
            states.append(state(server) | {"seconds": round(spent)})
        (tmp_path / "soak.json").write_text(json.dumps(states))
    warm, last = states[len(states) // 3], states[-1]
    assert last["pages"] < 1.1 * warm["pages"]
    assert last["files"] <= warm["files"] + 8
    assert last["children"] <= warm["children"] + 2
