"""The client for code that runs in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx2

from descore.client.conversation import COMPARISONS, SCORES, Call, ClientOptions, Heard, Record, Send, Steps
from descore.pairwise.comparison import Comparison
from descore.scoring.asked import Several, list_asked, list_pairs
from descore.scoring.score import Score


class AsyncClient:
    """Scores videos on a server, or compares them, as `Client` does, awaited.

    Args:
        url: Address of the server, such as http://127.0.0.1:8000.
        api_key: Key of the server; None if it has none.
        options: Further options, see `ClientOptions`.

    Example:
        async with AsyncClient("http://127.0.0.1:8000") as client:
            scores = await client.score(["a.mp4", "b.mp4"], "A red circle moves left.")
    """

    def __init__(self, url: str, api_key: str | None = None, **options: Any) -> None:
        self._options = ClientOptions(url, api_key, **options)
        self._http = httpx2.AsyncClient(headers=self._options.headers, timeout=self._options.timeout, trust_env=False)

    async def score(
        self,
        videos: Several,
        prompts: str | Iterable[str],
        num_thoughts: int = 1,
        *,
        thought: str | Iterable[str] | None = None,
        temperature: float | None = None,
        fps: float | None = None,
    ) -> list[Score]:
        """Score videos, each against its prompt; the arguments, records and errors are those of `Client.score`."""
        how = {"num_thoughts": num_thoughts, "temperature": temperature}
        return await self._ask(Call(self._options, SCORES, *list_asked(videos, prompts, thought), fps, how))

    async def compare(
        self,
        videos_a: Several,
        videos_b: Several,
        prompts: str | Iterable[str],
        num_thoughts: int = 1,
        *,
        temperature: float | None = None,
        fps: float | None = None,
    ) -> list[Comparison]:
        """Compare two videos of each prompt; the arguments, records and errors are those of `Client.compare`."""
        how = {"num_thoughts": num_thoughts, "temperature": temperature}
        pairs = list_pairs(videos_a, videos_b, prompts)
        return await self._ask(Call(self._options, COMPARISONS, pairs, range(len(pairs)), fps, how))

    async def _ask(self, call: Call[Record]) -> list[Record]:
        batches, reading = call.batches(), asyncio.Lock()

        async def next_batch() -> Steps | None:
            async with reading:
                return await asyncio.to_thread(next, batches, None)

        async def work() -> None:
            while (steps := await next_batch()) is not None:
                await self._take(steps)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._options.concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return call.records()

    async def _take(self, steps: Steps) -> None:
        heard: Heard | None = None
        while True:
            try:
                step = steps.send(heard)
            except StopIteration:
                return
            if isinstance(step, Send):
                heard = await self._send(step)
            else:
                await asyncio.sleep(step.seconds)
                heard = None

    async def _send(self, step: Send) -> Heard:
        try:
            answer = await self._http.post(step.address, content=step.content)
        except httpx2.TransportError as error:
            return Heard(0, f"{type(error).__name__}: {error}")
        return Heard(answer.status_code, answer.text, answer.headers.get("Retry-After", ""))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
