"""Requests that the server refuses as a whole, and the bytes that it holds."""

from __future__ import annotations

from descore.serving.metrics import Metrics


class Refused(Exception):
    """Raised for a request that is refused.

    Attributes:
        status: HTTP status.
        reason: What was expected, what was got, and what to do.
        retry_after: Seconds after which another try may succeed; None if it will not.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


class Held:
    """The bytes that requests hold, up to a limit of all of them together.

    >>> held = Held(100, Metrics())
    >>> held.take(60)
    >>> held.take(60)
    Traceback (most recent call last):
    descore.serving.refusals.Refused: (429, 'the server holds 60 of 100 bytes for other requests: try again later')
    """

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit, self.number, self._metrics = limit, 0, metrics

    def take(self, number: int) -> None:
        """Hold more bytes.

        Raises:
            Refused: If they are too many; none is held then.
        """
        if self.number + number > self.limit:
            held = f"the server holds {self.number} of {self.limit} bytes for other requests"
            raise Refused(429, f"{held}: try again later", retry_after=1)
        self.give(-number)

    def give(self, number: int) -> None:
        """Hold bytes no longer."""
        self.number -= number
        self._metrics.held.set(self.number)
