"""A worker process, as the server sees it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from descore.serving.options import ServerOptions

_LONGEST_LINE = 64 * 2**20
_SECONDS_TO_END = 5.0


@dataclass(eq=False)
class Job:
    """A video to score.

    Attributes:
        message: What the worker is sent.
        done: Its record, once it is there.
        started: When it was asked for.
        is_begun: Whether a worker has begun to read it.
        is_alone: Whether it is scored alone, since a worker died while it had it.
    """

    message: dict[str, Any]
    done: asyncio.Future[dict[str, Any]]
    started: float = field(default_factory=time.monotonic)
    is_begun: bool = False
    is_alone: bool = False

    @property
    def id(self) -> int:
        """Number of the job."""
        return int(self.message["id"])


class WorkerProcess:
    """A worker process.

    Attributes:
        jobs: What it was sent and has not answered, by number.
        is_ready: Whether its models are loaded.
        last_word: When it last said something, or got work when it had none.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self.jobs: dict[int, Job] = {}
        self.is_ready = False
        self.last_word = time.monotonic()

    @classmethod
    async def launch(cls, options: ServerOptions, device: str | None) -> WorkerProcess:
        """Start a process that loads the models on a device."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "descore.serving.worker", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE)
        worker = cls(process, reader, writer)
        config = {"models": dict(options.models), "scorer": dict(options.scorer), "limits": asdict(options.limits)}
        worker.send(config | {"device": device})
        return worker

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; a worker that has died gets none."""
        if len(self.jobs) <= 1:
            self.last_word = time.monotonic()
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield its messages until it ends."""
        with suppress(ConnectionError):
            while (line := await self._reader.readline()).endswith(b"\n"):
                self.last_word = time.monotonic()
                yield json.loads(line)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    async def end(self) -> str:
        """End it unless it has ended, and say how it did."""
        self._writer.close()
        if not self.is_ready:  # it would load the models first
            with suppress(ProcessLookupError):
                self.kill()
        try:
            code = await asyncio.wait_for(self._process.wait(), _SECONDS_TO_END)
        except TimeoutError:
            self.kill()
            code = await self._process.wait()
        return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
