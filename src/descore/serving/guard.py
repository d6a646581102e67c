"""What stands before every request: host, key, readiness, and limits of the body in bytes and in time."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from descore.serving.metrics import Metrics
from descore.serving.options import MIB, ServerOptions
from descore.serving.refusals import Held, Refused

OPEN_PATHS = frozenset({"/", "/page.css", "/page.js", "/health", "/ready"})
"""What is answered without a key: the page, which asks for it, and whether the server is there."""

_BYTES_PER_SECOND = 64 * 1024
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def refusal(refused: Refused) -> JSONResponse:
    """Return the answer to a request that is refused."""
    headers = {"Cache-Control": "no-store"}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": refused.reason}, refused.status, headers)


class Guard:
    """Middleware that refuses what need not be read, and measures what is.

    Args:
        app: The application.
        options: Options of the server.
        metrics: What is counted.
        held: The bytes that all requests hold.
        why_closed: Returns why no video is taken now; None if they are.
    """

    def __init__(
        self, app: ASGIApp, options: ServerOptions, metrics: Metrics, held: Held, why_closed: Callable[[], str | None]
    ) -> None:
        self._app, self._options, self._metrics, self._held = app, options, metrics, held
        self._why_closed = why_closed
        self.num_active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        body = _Body(receive, self._options, self._held)
        self.num_active += 1
        try:
            self._check(scope, body)
            await self._app(scope, body.receive, send_counted)
        except Refused as refused:
            await refusal(refused)(scope, receive, send_counted)
        finally:
            self.num_active -= 1
            self._held.give(body.number)
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()

    def _check(self, scope: Scope, body: _Body) -> None:
        headers = dict(scope["headers"])
        self._check_host(headers.get(b"host", b"").decode("latin-1"))
        if scope["path"] not in OPEN_PATHS:
            self._check_key(headers.get(b"authorization", b""))
        if scope["method"] == "POST" and (closed := self._why_closed()):
            raise Refused(503, closed, retry_after=5)
        body.check_length(headers.get(b"content-length", b""))

    def _check_host(self, host: str) -> None:
        """Refuse another name than this machine's where no key keeps pages of other sites out (DNS rebinding)."""
        if self._options.api_key is None and self._options.is_loopback:
            try:
                name = urlsplit(f"//{host}").hostname
            except ValueError:
                name = None
            if name not in _LOOPBACK_NAMES:
                raise Refused(421, f"expected the host localhost or 127.0.0.1, got {host!r:.100}")

    def _check_key(self, given: bytes) -> None:
        key = self._options.api_key
        if key is not None and not hmac.compare_digest(given, b"Bearer " + key.encode()):
            raise Refused(401, "expected the header Authorization: Bearer KEY with the key of this server")


class _Body:
    """The body of a request, as it comes."""

    def __init__(self, receive: Receive, options: ServerOptions, held: Held) -> None:
        self._receive, self._options, self._held = receive, options, held
        self._most = int(options.limits.body_mb * MIB)
        self._start = time.monotonic()
        self._is_whole = False
        self.number = 0

    def check_length(self, declared: bytes) -> None:
        if declared.isdigit() and int(declared) > self._most:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"expected a body of at most {self._options.limits.body_mb:g} MiB")

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        end = self._start + self._options.limits.body_seconds + self.number / _BYTES_PER_SECOND
        try:
            async with asyncio.timeout(max(end - time.monotonic(), 0)):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, "the body came too slowly: send it at once") from None
        self._take(message)
        return message

    def _take(self, message: Message) -> Any:
        number = len(message.get("body", b""))
        if self.number + number > self._most:
            raise self._too_large()
        self._held.take(number)
        self.number += number
        self._is_whole = not message.get("more_body", False)
