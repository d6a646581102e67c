"""The pool with workers that do as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from descore.serving import pool as pooling
from descore.serving.metrics import Metrics
from descore.serving.options import Limits, ServerOptions
from descore.serving.pool import Pool
from descore.serving.process import Job
from descore.serving.refusals import Refused
from descore.serving.schemas import ScoreRecord

VIDEO = {"model": "m", "name": "a.mp4", "prompt": "p"}


class Scripted:
    """A worker that dies when it is given the prompt `poison`, is silent at `hang`, and answers all else."""

    seen: list[list[str]]

    def __init__(self, *, is_broken: bool = False) -> None:
        self.jobs: dict[int, Job] = {}
        self.is_ready, self.last_word = False, 0.0
        self.said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.said.put_nowait({"failed": "no such folder"} if is_broken else {"ready": {"m": {}}})
        self.seen.append([])

    def send(self, message: dict[str, Any]) -> None:
        if "drop" in message:
            return
        self.seen[-1].append(message["prompt"])
        self.said.put_nowait({"begin": message["id"]})
        if message["prompt"] == "poison":
            self.said.put_nowait(None)
        elif message["prompt"] != "hang":
            record = ScoreRecord(reward=float(message["prompt"])).model_dump()
            self.said.put_nowait({"id": message["id"], "score": record, "batch": 1})

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self.said.get()) is not None:
            yield message

    def kill(self) -> None:
        self.said.put_nowait(None)

    async def end(self) -> str:
        return "signal 9, Killed"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Let the pool have scripted workers; set `is_broken` for those that cannot load the models."""
    how = {"is_broken": False}
    Scripted.seen = []

    async def launch(*_: object) -> Scripted:
        return Scripted(**how)

    monkeypatch.setattr(pooling.WorkerProcess, "launch", launch)
    return how


def ask(prompts: list[str], **limits: float) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        pool = Pool(ServerOptions({"m": "folder"}, limits=Limits(**limits)), Metrics(), print)
        pool.start()
        try:
            return await pool.score([VIDEO | {"prompt": prompt} for prompt in prompts])
        finally:
            await pool.stop()

    return asyncio.run(run())


def test_records_come_in_order(broken):
    assert [record["reward"] for record in ask(["3", "1", "2"])] == [3, 1, 2]
    assert ask([]) == []


def test_a_video_that_kills_its_worker_twice_fails_alone(broken):
    records = ask(["1", "poison", "2", "3"])
    assert [record["reward"] for record in records] == [1, None, 2, 3]
    assert records[1]["error"] == "a.mp4: the worker process died twice with it (signal 9, Killed)"
    first, alone, *_ = Scripted.seen
    assert first == ["1", "poison", "2", "3"]
    assert alone[-1] == "poison"


def test_a_worker_that_says_nothing_is_replaced_and_the_video_fails_alone(broken):
    records = ask(["1", "hang", "2"], stall_seconds=0.05)
    assert [record["reward"] for record in records] == [1, None, 2]


def test_a_video_that_takes_too_long_has_an_error(broken):
    records = ask(["hang", "1"], request_seconds=0.2)
    assert [record["reward"] for record in records] == [None, 1]
    assert records[0]["error"].startswith("a.mp4: was not scored within 0.2 s")


def test_more_than_the_queue_is_refused_as_a_whole(broken):
    with pytest.raises(Refused) as refused:
        ask(["1"] * 5, queue=4)
    assert refused.value.status == 429
    assert refused.value.retry_after >= 1
    assert Scripted.seen == []


def test_models_that_cannot_be_loaded_end_the_server(broken):
    async def run() -> str:
        reasons: asyncio.Queue[str] = asyncio.Queue()
        pool = Pool(ServerOptions({"m": "folder"}), Metrics(), reasons.put_nowait)
        pool.start()
        try:
            return await asyncio.wait_for(reasons.get(), 5)
        finally:
            await pool.stop()

    broken["is_broken"] = True
    assert asyncio.run(run()) == "no such folder"
