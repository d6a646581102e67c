"""The queue of videos, and the workers that score them: one process per device, replaced when it dies."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from descore.serving.metrics import Metrics
from descore.serving.options import ServerOptions
from descore.serving.process import Job, WorkerProcess
from descore.serving.refusals import Refused
from descore.serving.schemas import failed

WINDOW = 128
"""Videos that a worker has at most, read and scored or still to be."""

_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before a worker that died is replaced, by deaths in a row


class Pool:
    """Scores videos in worker processes.

    Args:
        options: Options of the server.
        metrics: What is counted.
        on_broken: Called with the reason if the models cannot be loaded at all.
    """

    def __init__(self, options: ServerOptions, metrics: Metrics, on_broken: Callable[[str], None]) -> None:
        self._options, self._metrics, self._on_broken = options, metrics, on_broken
        self._workers: list[WorkerProcess] = []
        self._queue: deque[Job] = deque()
        self._ids = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self._seconds_per_item = 1.0
        self.models: dict[str, Any] = {}

    @property
    def is_ready(self) -> bool:
        """Whether a worker is ready."""
        return any(worker.is_ready for worker in self._workers)

    @property
    def num_open(self) -> int:
        """Number of videos that wait or that workers have."""
        return len(self._queue) + sum(len(worker.jobs) for worker in self._workers)

    def start(self) -> None:
        """Start the workers."""
        self._tasks = [asyncio.create_task(self._keep(device)) for device in self._options.devices]
        self._tasks.append(asyncio.create_task(self._watch()))

    async def stop(self) -> None:
        """End the workers; what they have is lost, so first let it be finished."""
        for task in self._tasks:
            task.cancel()
        for worker in self._workers:
            await worker.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def score(self, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Score videos, and return their records in order; one that takes too long has an error.

        Args:
            asked: For each video the message to a worker, without an id.

        Raises:
            Refused: If the queue has no room for them.
        """
        self._check_room(len(asked))
        loop = asyncio.get_running_loop()
        jobs = [Job(one | {"id": next(self._ids)}, loop.create_future()) for one in asked]
        self._queue.extend(jobs)
        self._dispatch()
        limit = self._options.limits.request_seconds
        try:
            if jobs:
                await asyncio.wait([job.done for job in jobs], timeout=limit)
        finally:
            for job in jobs:
                self._drop(job, f"was not scored within {limit:g} s: try again, or with fewer at a time")
        for job in jobs:
            self._count(job)
        return [job.done.result() for job in jobs]

    def _check_room(self, number: int) -> None:
        limit = self._options.limits.queue
        if self.num_open + number > limit:
            seconds = self._seconds_per_item * self.num_open
            raise Refused(
                429,
                f"{self.num_open} videos wait, and {number} more are above {limit}: try again later",
                retry_after=min(max(math.ceil(seconds), 1), 60),
            )

    def _count(self, job: Job) -> None:
        outcome = "scored" if job.done.result()["error"] is None else "failed"
        self._metrics.items.labels(job.message["model"], outcome).inc()
        self._metrics.seconds.observe(time.monotonic() - job.started)

    def _drop(self, job: Job, reason: str) -> None:
        if job.done.done():
            return
        job.done.set_result(failed(f"{job.message['name']}: {reason}"))
        if job in self._queue:
            self._queue.remove(job)
        for worker in self._workers:
            if job.id in worker.jobs:
                worker.send({"drop": job.id})

    def _dispatch(self) -> None:
        """Hand waiting videos to the workers that have the fewest."""
        while self._queue:
            free = [worker for worker in self._workers if self._has_room(worker)]
            if not free:
                break
            worker = min(free, key=lambda worker: len(worker.jobs))
            if self._queue[0].is_alone and worker.jobs:
                break
            job = self._queue.popleft()
            worker.jobs[job.id] = job
            worker.send(job.message)
        self._metrics.queue.set(len(self._queue))
        self._metrics.running.set(self.num_open - len(self._queue))
        self._metrics.workers.set(sum(worker.is_ready for worker in self._workers))

    @staticmethod
    def _has_room(worker: WorkerProcess) -> bool:
        return worker.is_ready and len(worker.jobs) < WINDOW and not any(job.is_alone for job in worker.jobs.values())

    async def _keep(self, device: str | None) -> None:
        """Keep a worker on a device."""
        deaths = 0
        while True:
            await asyncio.sleep(_PAUSES[min(deaths, len(_PAUSES) - 1)])
            worker = await WorkerProcess.launch(self._options, device)
            self._workers.append(worker)
            reason = await self._listen(worker)
            deaths = 0 if worker.is_ready else deaths + 1
            self._workers.remove(worker)
            ended = await worker.end()
            if not self.models:
                self._on_broken(reason or f"the worker process died while it loaded the models ({ended})")
                return
            self._metrics.deaths.inc()
            self._requeue(worker, ended)

    async def _listen(self, worker: WorkerProcess) -> str | None:
        """Take a worker's messages until it ends; return the reason if it could not load the models."""
        async for message in worker.messages():
            if "failed" in message:
                return str(message["failed"])
            if "ready" in message:
                worker.is_ready, self.models = True, message["ready"]
            elif "begin" in message:
                worker.jobs[message["begin"]].is_begun = True
                continue
            else:
                self._receive(worker.jobs.pop(message["id"]), message)
            self._dispatch()
        return None

    def _receive(self, job: Job, message: dict[str, Any]) -> None:
        if not job.done.done():
            job.done.set_result(message["score"])
        if message["batch"]:
            self._metrics.batch.observe(message["batch"])
        spent = (time.monotonic() - job.started) / max(self.num_open, 1)
        self._seconds_per_item += 0.05 * (spent - self._seconds_per_item)

    def _requeue(self, worker: WorkerProcess, ended: str) -> None:
        """Queue again what a dead worker had: what it had begun alone, and only once more."""
        for job in reversed(worker.jobs.values()):
            if job.done.done():
                continue
            if job.is_begun and job.is_alone:
                job.done.set_result(failed(f"{job.message['name']}: the worker process died twice with it ({ended})"))
                continue
            job.is_alone, job.is_begun = job.is_alone or job.is_begun, False
            self._queue.appendleft(job)
        self._dispatch()

    async def _watch(self) -> None:
        """Kill workers that have work and say nothing."""
        limit = self._options.limits.stall_seconds
        while True:
            await asyncio.sleep(min(1.0, limit / 2))
            for worker in self._workers:
                if worker.jobs and time.monotonic() - worker.last_word > limit:
                    with suppress(ProcessLookupError):
                        worker.kill()
