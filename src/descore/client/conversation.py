"""What both clients say and hear: batches, tries, and what an answer means; sending and waiting is left to them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from descore.client.videos import to_source
from descore.inputs.choice import OUTCOMES
from descore.inputs.prompts import check_prompt
from descore.pairwise.comparison import Comparison
from descore.scoring.asked import Asked, in_order
from descore.scoring.score import Score

Record = TypeVar("Record", Score, Comparison)

_LONGEST_WAIT = 60.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class ClientError(RuntimeError):
    """Raised if the server refuses a request, or cannot be reached; the message says why."""


class Send(NamedTuple):
    """A request to send, which is answered by a `Heard`."""

    address: str
    content: bytes


class Wait(NamedTuple):
    """Seconds to wait."""

    seconds: float


class Heard(NamedTuple):
    """The answer to a request.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        text: Its body, or why there was none.
        retry_after: Its header Retry-After; empty if there is none.
    """

    status: int
    text: str
    retry_after: str = ""


Steps = Generator[Send | Wait, Heard | None, None]


@dataclass(frozen=True)
class ClientOptions:
    """Options of a client.

    Args:
        url: Address of the server, such as http://127.0.0.1:8000.
        api_key: Key of the server; None if it has none.
        model: Name of the model; the first of the server if not given.
        batch_size: Most videos of one request, but for a single pair.
        batch_mb: Most MiB of one request, but for a single video or pair.
        concurrency: Requests that are sent at the same time.
        timeout: Seconds to wait for an answer.
        retries: How often a request is sent again if the server is busy, cannot be reached or breaks off.
        backoff: Seconds before the second try; each further one waits twice as long, unless the server says how long.
        send_paths: Whether paths are sent as paths, which the server reads under its --allow-root, not the files.
    """

    url: str
    api_key: str | None = None
    model: str | None = None
    batch_size: int = 16
    batch_mb: float = 64.0
    concurrency: int = 4
    timeout: float = 300.0
    retries: int = 6
    backoff: float = 0.5
    send_paths: bool = False

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: expected an address such as http://127.0.0.1:8000, got {self.url!r}")
        for name, least in (("batch_size", 1), ("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        headers = {"Content-Type": "application/json"}
        return headers | ({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})


@dataclass(frozen=True)
class Route(Generic[Record]):
    """A route of the server that takes several items at once.

    Attributes:
        path: Path of the route.
        videos: Names of the videos of an item.
        records: Name of the records in the answer.
        read: Returns the record of its JSON.
        fail: Returns the record of an item that was not sent, with its error.
        is_whole: Returns whether a record in JSON has what was asked for, or else none of it and an error.
    """

    path: str
    videos: tuple[str, ...]
    records: str
    read: Callable[[dict[str, Any]], Record]
    fail: Callable[[str], Record]
    is_whole: Callable[[dict[str, Any]], bool]


class Call(Generic[Record]):
    """One call of a client: what is asked, in batches, and their records in order.

    Args:
        options: Options of the client.
        route: Route that answers.
        asked: Items.
        order: Index of the item of each record.
        fps: Frame rate of videos that are given as frames.
        how: Further values of each request.
    """

    def __init__(
        self,
        options: ClientOptions,
        route: Route[Record],
        asked: Sequence[Asked],
        order: Sequence[int],
        fps: float | None,
        how: Mapping[str, Any],
    ) -> None:
        self._route: Route[Record] = route
        self._options, self._fps = options, fps
        self._address = f"{options.url.rstrip('/')}{route.path}"
        self._how = {name: value for name, value in {**how, "model": options.model}.items() if value is not None}
        self._asked, self._order = asked, order
        self._found: dict[int, Record] = {}

    def batches(self) -> Iterator[Steps]:
        """Yield the steps of each batch; each is read from the disk when it is asked for."""
        batch: list[tuple[int, str]] = []
        size, most = 0, max(self._options.batch_size // len(self._route.videos), 1)
        for index, one in enumerate(self._asked):
            item = self._item(index, one)
            if item is None:
                continue
            if batch and (len(batch) == most or size + len(item) > self._options.batch_mb * 2**20):
                yield self._steps(batch)
                batch, size = [], 0
            batch.append((index, item))
            size += len(item)
        if batch:
            yield self._steps(batch)

    def records(self) -> list[Record]:
        """Return the records of all items, once the steps of every batch were taken."""
        return list(in_order((self._found[index] for index in range(len(self._asked))), self._order))

    def _item(self, index: int, one: Asked) -> str | None:
        """Return an item as JSON; one that cannot be read has an error instead."""
        item: dict[str, Any] = {"prompt": one.prompt} | ({} if one.thought is None else {"thought": one.thought})
        video = one.video
        try:
            for name, video in zip(self._route.videos, one.videos, strict=True):
                item[name] = to_source(video, self._fps, send_paths=self._options.send_paths)
            video = one.video
            check_prompt(one.prompt)
        except (OSError, ValueError, TypeError) as error:
            name = f"{video}: " if isinstance(video, str) else ""
            self._found[index] = self._route.fail(f"{name}{error}")
            return None
        return json.dumps(item)

    def _steps(self, batch: Sequence[tuple[int, str]]) -> Steps:
        """Send a batch until it is answered; one that is too large is sent in halves."""
        content = f'{{"items": [{", ".join(item for _, item in batch)}]'
        content += "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in self._how.items()) + "}"
        heard = yield from self._until_answered(Send(self._address, content.encode()))
        if heard.status == 413 and len(batch) > 1:
            middle = len(batch) // 2
            yield from self._steps(batch[:middle])
            yield from self._steps(batch[middle:])
            return
        if heard.status == 413:
            found = [self._route.fail(_reason(heard))]
        elif heard.status == 200:
            found = [self._route.read(record) for record in self._heard(heard, len(batch))]
        else:
            raise ClientError(f"{self._address}: {_reason(heard)}")
        self._found |= dict(zip((index for index, _ in batch), found, strict=True))

    def _until_answered(self, send: Send) -> Generator[Send | Wait, Heard | None, Heard]:
        heard = Heard(0, "")
        for number in range(self._options.retries + 1):
            heard = (yield send) or heard
            if heard.status and heard.status not in _AGAIN:
                return heard
            if number < self._options.retries:
                yield Wait(self._pause(heard, number))
        raise ClientError(f"{self._address}: {_reason(heard)}, after {self._options.retries + 1} tries")

    def _pause(self, heard: Heard, number: int) -> float:
        """Return the seconds before the next try: what the server says, or else longer each time; spread by chance."""
        seconds = float(heard.retry_after) if heard.retry_after.isdigit() else self._options.backoff * 2**number
        return min(seconds, _LONGEST_WAIT) * random.uniform(1.0, 1.25)

    def _heard(self, heard: Heard, number: int) -> list[dict[str, Any]]:
        """Return the records of an answer as JSON."""
        name = self._route.records
        try:
            records = json.loads(heard.text)[name]
        except (ValueError, KeyError, TypeError) as error:
            raise ClientError(f"expected the {name} in JSON, got {heard.text[:100]!r}") from error
        if not isinstance(records, list) or len(records) != number:
            raise ClientError(f"expected {number} {name}, got {heard.text[:100]!r}")
        for record in records:
            if not (isinstance(record, dict) and self._route.is_whole(record)):
                raise ClientError(f"expected a reward, a verdict or an error, got {record!r:.100}")
        return records


def _is_scored(record: dict[str, Any]) -> bool:
    """Return whether a record has a finite reward, or else none and an error."""
    reward, error = record.get("reward"), record.get("error")
    if reward is None:
        return bool(error)
    return type(reward) in {int, float} and math.isfinite(reward) and error is None


def _is_compared(record: dict[str, Any]) -> bool:
    """Return whether a record has finite probabilities and their verdict, or else none and an error."""
    verdict, error = record.get("verdict"), record.get("error")
    if verdict is None:
        return bool(error)
    chances = [record.get(name) for name in ("p_a", "p_tie", "p_b")]
    finite = all(type(one) in {int, float} and math.isfinite(one) for one in chances)  # type: ignore[arg-type]
    return verdict in OUTCOMES and finite and error is None


SCORES = Route(
    "/score/batch",
    ("video",),
    "scores",
    Score.from_json,
    lambda error: Score(math.nan, error=error),
    _is_scored,
)
COMPARISONS = Route(
    "/compare/batch",
    ("video_a", "video_b"),
    "comparisons",
    Comparison.from_json,
    lambda error: Comparison(error=error),
    _is_compared,
)


def _reason(heard: Heard) -> str:
    try:
        text = json.loads(heard.text)["error"]
    except (ValueError, KeyError, TypeError):
        text = heard.text[:200]
    return f"status {heard.status}: {text}" if heard.status else text
