"""A server as its users run it: the command in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import httpx2

SECONDS = 60.0


class Running:
    """A server process, its address and what it said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said: Queue[str | None] = Queue()
        Thread(target=self._read, daemon=True).start()
        self.url = re.search(r"http://\S+", self.wait_for("listening on"))[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        for line in self.process.stderr:
            self._said.put(line)
        self._said.put(None)

    def wait_for(self, text: str) -> str:
        """Return the next line with a text."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                line = self._said.get(timeout=max(end - time.monotonic(), 0))
            except Empty:
                line = None
            assert line is not None, f"expected {text!r}, the server said:\n{''.join(self.lines)}"
            self.lines.append(line)
            if text in line:
                return line

    def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        options = {"json": body} if body is not None else options
        return httpx2.post(f"{self.url}{path}", timeout=SECONDS, trust_env=False, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", timeout=SECONDS, trust_env=False, **options)

    def metric(self, name: str) -> float:
        """Return the value of a metric, summed over its labels."""
        values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return sum(map(float, values))

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(one) for one in children]

    def is_alive(self) -> bool:
        return self.process.poll() is None and self.get("/ready").status_code == 200

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def serving(export: str, *options: object, ready: bool = True, **environment: str) -> Iterator[Running]:
    """Run `descore serve` on a free port, without a proxy, until it is ready."""
    arguments = ["serve", "--model", export, "--device", "cpu", "--port", "0", *map(str, options)]
    process = subprocess.Popen(
        [sys.executable, "-m", "descore.cli", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        server = Running(process)
        if ready:
            server.wait_for("ready")
        yield server
    finally:
        process.kill()
        process.wait()
