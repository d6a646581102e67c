"""Options of the server, and the limits of what a request, and all requests together, may take."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from descore.types import ModelError

MIB = 2**20
MAX_FPS = 1000


class ServerError(ModelError):
    """Raised if the server cannot start; the message says why, and what to do."""


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Args:
        body_mb: Largest body of a request, and largest video from a path or a URL, in MiB.
        held_mb: Most MiB of bodies and videos that all requests in work hold together.
        queue: Most videos that wait or are being scored; more are refused with 429.
        items: Most videos of one request.
        thoughts: Most thoughts per video.
        prompt: Most characters of a prompt.
        seconds: Longest video, in seconds.
        frames: Most frames of a video.
        request_seconds: Time in which a video must be scored, waiting included.
        body_seconds: Time for a body to arrive, in seconds, plus one second for each 64 KiB that arrived.
        header_seconds: Time for the header of a request to arrive.
        stall_seconds: Time without a word after which a worker with work is replaced.
        shutdown_seconds: Time in which a server that was asked to stop finishes what it accepted.
    """

    body_mb: float = 256.0
    held_mb: float = 2048.0
    queue: int = 512
    items: int = 256
    thoughts: int = 16
    prompt: int = 20_000
    seconds: float = 120.0
    frames: int = 7200
    request_seconds: float = 120.0
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    stall_seconds: float = 600.0
    shutdown_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ServerError(f"expected a limit {name} above 0, got {value}")


@dataclass(frozen=True)
class ServerOptions:
    """Options of the server.

    Args:
        models: Exported folder of each model by name; the first is the one that is asked if a request names none.
        devices: Device of each worker; None stands for the GPU if there is one, or else the CPU.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: Key that requests must carry; None for none.
        is_open: Whether a server without a key may listen where other machines reach it.
        roots: Folders under which a request may name a video by its path.
        hosts: Hosts, or host:port, from which a request may name a video by its URL.
        frames_fps: Frame rate of videos that are sent as frames without one.
        pickle_bridge: Whether `POST /flow_grpo` is there, which reads pickles of plain values.
        scorer: Further options of each `Scorer`.
        limits: Limits of requests.

    Raises:
        ServerError: If the options contradict each other.
    """

    models: Mapping[str, str]
    devices: tuple[str | None, ...] = (None,)
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    is_open: bool = False
    roots: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    frames_fps: float | None = None
    pickle_bridge: bool = False
    scorer: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.frames_fps is not None and not 0 < self.frames_fps <= MAX_FPS:
            raise ServerError(f"--frames-fps {self.frames_fps:g}: expected above 0 and at most {MAX_FPS}")
        for root in self.roots:
            if not root.is_dir():
                raise ServerError(f"--allow-root {root}: expected a folder")
        if not self.is_loopback and self.pickle_bridge:
            raise ServerError(f"the pickle bridge is for this machine only, got --host {self.host}: use 127.0.0.1")
        if not self.is_loopback and self.api_key is None and not self.is_open:
            raise ServerError(
                f"--host {self.host} can be reached from other machines: give --api-key-env NAME, the environment "
                "variable that holds the key, or --without-key"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def default_model(self) -> str:
        """Name of the model that is asked if a request names none."""
        return next(iter(self.models))
