"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any

import httpx2

from descore.client.conversation import COMPARISONS, SCORES, Call, ClientOptions, Heard, Record, Send, Steps
from descore.pairwise.comparison import Comparison
from descore.scoring.asked import Several, list_asked, list_pairs
from descore.scoring.score import Score


class Client:
    """Scores videos on a server, or compares them.

    Args:
        url: Address of the server, such as http://127.0.0.1:8000.
        api_key: Key of the server; None if it has none.
        options: Further options, see `ClientOptions`.

    Example:
        with Client("http://127.0.0.1:8000") as client:
            scores = client.score(["a.mp4", "b.mp4"], "A red circle moves left.")
    """

    def __init__(self, url: str, api_key: str | None = None, **options: Any) -> None:
        self._options = ClientOptions(url, api_key, **options)
        self._http = httpx2.Client(headers=self._options.headers, timeout=self._options.timeout, trust_env=False)

    def score(
        self,
        videos: Several,
        prompts: str | Iterable[str],
        num_thoughts: int = 1,
        *,
        thought: str | Iterable[str] | None = None,
        temperature: float | None = None,
        fps: float | None = None,
    ) -> list[Score]:
        """Score videos, each against its prompt; the arguments and records are those of `Scorer.score`.

        Raises:
            ClientError: If the server refuses a request, or none of several tries is answered.
            ScoringError: If the numbers of videos and prompts differ.
        """
        how = {"num_thoughts": num_thoughts, "temperature": temperature}
        return self._ask(Call(self._options, SCORES, *list_asked(videos, prompts, thought), fps, how))

    def compare(
        self,
        videos_a: Several,
        videos_b: Several,
        prompts: str | Iterable[str],
        num_thoughts: int = 1,
        *,
        temperature: float | None = None,
        fps: float | None = None,
    ) -> list[Comparison]:
        """Compare two videos of each prompt, on a server with a model that compares two videos.

        The arguments and records are those of `Scorer.compare`.

        Raises:
            ClientError: If the server refuses a request, or none of several tries is answered.
            ScoringError: If the numbers of videos and prompts differ.
        """
        how = {"num_thoughts": num_thoughts, "temperature": temperature}
        pairs = list_pairs(videos_a, videos_b, prompts)
        return self._ask(Call(self._options, COMPARISONS, pairs, range(len(pairs)), fps, how))

    def _ask(self, call: Call[Record]) -> list[Record]:
        room = BoundedSemaphore(2 * self._options.concurrency)  # batches that are read and wait

        def take(steps: Steps) -> None:
            try:
                self._take(steps)
            finally:
                room.release()

        with ThreadPoolExecutor(self._options.concurrency) as pool:
            waiting = [pool.submit(take, steps) for steps in call.batches() if room.acquire()]
        for one in waiting:
            one.result()
        return call.records()

    def _take(self, steps: Steps) -> None:
        heard: Heard | None = None
        while True:
            try:
                step = steps.send(heard)
            except StopIteration:
                return
            if isinstance(step, Send):
                heard = self._send(step)
            else:
                time.sleep(step.seconds)
                heard = None

    def _send(self, step: Send) -> Heard:
        try:
            answer = self._http.post(step.address, content=step.content)
        except httpx2.TransportError as error:
            return Heard(0, f"{type(error).__name__}: {error}")
        return Heard(answer.status_code, answer.text, answer.headers.get("Retry-After", ""))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
