"""Runs the server until it is asked to stop; it then refuses new requests, and finishes what it accepted."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from descore.serving.app import make_app
from descore.serving.options import ServerError, ServerOptions

_MAX_HEADER = 64 * 1024
_MAX_CONNECTIONS = 1024
_KEEP_ALIVE = 30


def serve(options: ServerOptions, say: Callable[[str], None]) -> int:
    """Serve until a signal.

    Args:
        options: Options of the server.
        say: Takes lines for the person who started it.

    Returns:
        Exit code: 0 after SIGTERM, 130 after an interrupt.

    Raises:
        ServerError: If the port cannot be used, or the models cannot be loaded.
    """
    with listen(options) as listener:
        server = Server(options, say)
        asyncio.run(server.serve(sockets=[listener]))
    if server.broken is not None:
        raise ServerError(server.broken)
    return 130 if server.stopped_by == signal.SIGINT else 0


def listen(options: ServerOptions) -> socket.socket:
    """Open the port.

    Raises:
        ServerError: If it is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise ServerError(f"--host {options.host} --port {options.port}: {error.strerror}; try another port") from error


class Server(uvicorn.Server):
    """A server that finishes what it accepted.

    Args:
        options: Options of the server.
        say: Takes lines for the person who started it.

    Attributes:
        broken: Why the models cannot be loaded; None if they can.
        stopped_by: Signal that stopped it.
    """

    def __init__(self, options: ServerOptions, say: Callable[[str], None]) -> None:
        self._options, self._say = options, say
        self._app, self._service = make_app(options, self._break)
        config = uvicorn.Config(
            self._app,
            http=partial(TimedProtocol, options.limits.header_seconds),  # type: ignore[arg-type]
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE,
            h11_max_incomplete_event_size=_MAX_HEADER,
        )
        super().__init__(config)
        self.broken: str | None = None
        self.stopped_by: int | None = None
        self._last_moment = 0.0

    def _break(self, reason: str) -> None:
        self.broken, self.should_exit = reason, True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and tell where; then tell when the models are loaded."""
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            self._say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")
        if self._options.pickle_bridge:
            self._say("warning: POST /flow_grpo reads pickles; give this port to no program that you do not trust")
        self._waiting = asyncio.create_task(self._tell_ready())

    async def _tell_ready(self) -> None:
        while not self._service.pool.is_ready:
            await asyncio.sleep(0.05)
        for name, folder in self._options.models.items():
            about = self._service.pool.models[name]
            self._say(f"model {name}: {folder}, {about['dtype']} on {about['device']}")
        self._say("ready")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, once what was accepted is done; at once at the second signal."""
        if self.stopped_by is not None:
            self.should_exit = self.force_exit = True
            return
        self.stopped_by, self._service.is_stopping = sig, True
        self._last_moment = time.monotonic() + self._options.limits.shutdown_seconds

    async def on_tick(self, counter: int) -> bool:
        """Decide ten times a second whether to end."""
        done = not self._app.num_active or time.monotonic() > self._last_moment
        if self.stopped_by is not None and done:
            self.should_exit = True
        return await super().on_tick(counter)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes connections on which the header of a request does not arrive in time."""

    def __init__(self, seconds: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first header."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take data, and wait for the rest of a header that began."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._stop()

    def _wait(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
