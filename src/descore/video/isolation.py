"""Reading videos in child processes: a file that hangs or crashes its decoder costs that file, and nothing else."""

from __future__ import annotations

import gc
import json
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar, cast

import torch

from descore.types import Frames
from descore.video.checks import VideoError, VideoHeader

# What a scheduler or a terminal sends to all processes of a job: the parent decides, and needs its child until then.
_FOR_THE_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Answer = Frames | VideoHeader
Kind = TypeVar("Kind", Frames, VideoHeader)


class IsolatedReader(Generic[Kind]):
    """Reads videos as `read` does, each in a child process with limits of time and memory.

    A child is forked when it is needed, as many as threads read at a time, and serves until a file kills it. It leaves
    the signals that stop a run to its parent, uses no GPU, and ends with its parent. A file that hung or crashed is
    refused at once from then on, until it changes; also by the copies in processes that are forked from this one.

    Only on Linux: elsewhere a fork of a process that has threads is not safe, and videos are read without a child.

    Args:
        read: Reads one video; raises `VideoError` where it cannot.
        seconds: Time limit for one video.
        memory_gb: Memory that a child may take for one video, in GiB.
    """

    def __init__(self, read: Callable[[str], Kind], *, seconds: float = 100.0, memory_gb: float = 8.0) -> None:
        self.read: Callable[[str], Kind] = read
        self.seconds = seconds
        self.memory_gb = memory_gb
        self._quarantine = _Quarantine()
        self._idle: list[_Child] = []

    def __call__(self, path: str) -> Kind:
        """Read one video.

        Raises:
            VideoError: As `read` does, and if the limits were passed, the child died, or `read` raised something else.
        """
        if sys.platform != "linux":
            return self.read(path)
        file = _identity(path)
        if reason := self._quarantine.reason(file):
            raise VideoError(path, reason)
        child = self._idle_child() or _Child(self.read, self.seconds, self.memory_gb)
        try:
            answer = child.ask(path)
        except (EOFError, ConnectionError):
            reason = f"{self._describe(child.end())}: it is left alone until it changes; shorten it, or write it again"
            self._quarantine.add(file, reason)
            raise VideoError(path, reason) from None
        self._idle.append(child)
        if isinstance(answer, str):
            raise VideoError(path, answer)
        return cast("Kind", answer)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(IsolatedReader, seconds=self.seconds, memory_gb=self.memory_gb), (self.read,)

    def _idle_child(self) -> _Child | None:
        with suppress(IndexError):  # raised where there is none, or another thread took the last one
            while not (child := self._idle.pop()).is_ready():
                child.end()
            return child
        return None

    def _describe(self, exit_code: int) -> str:
        if exit_code == -signal.SIGALRM:
            return f"took more than {self.seconds:g} s to read"
        end = f"signal {-exit_code}, {signal.strsignal(-exit_code)}" if exit_code < 0 else f"exit code {exit_code}"
        return f"the decoder died of it ({end})"


class _Quarantine:
    """Reasons by file, shared with the processes that are forked from this one: a loader's workers live an epoch."""

    def __init__(self) -> None:
        self._lines = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - unbuffered: lines appear whole
        weakref.finalize(self, self._lines.close)

    def add(self, file: str, reason: str) -> None:
        self._lines.write(json.dumps([file, reason]).encode() + b"\n")

    def reason(self, file: str) -> str | None:
        number = self._lines.fileno()
        lines = os.pread(number, os.fstat(number).st_size, 0).splitlines()
        return dict(json.loads(line) for line in lines).get(file)


def _identity(path: str) -> str:
    """Name a file in its present state."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return path
    return f"{os.path.abspath(path)}:{status.st_size}:{status.st_mtime_ns}"


class _Child:
    """One child process: a path goes in as a line, JSON comes out as a line, and the bytes of pixels follow."""

    def __init__(self, read: Callable[[str], Answer], seconds: float, memory_gb: float) -> None:
        self._parent = os.getpid()
        self._socket, theirs = socket.socketpair()
        # A signal that comes between the fork and `_settle` would run the parent's handler in the child.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
        try:
            self._pid = os.fork()  # by hand: multiprocessing lets no worker of a loader have children
            if self._pid == 0:
                _serve(read, seconds, memory_gb, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._answers = self._socket.makefile("rb")

    def is_ready(self) -> bool:
        """Whether it is a child of this process and waits for a path."""
        if self._parent != os.getpid():
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # nothing is left unread: this hears of its end
        except BlockingIOError:
            return True
        return False

    def ask(self, path: str) -> Answer | str:
        """Have a video read; return the reason if it cannot be.

        Raises:
            EOFError, ConnectionError: If the child has died.
        """
        self._socket.sendall(_line(path))
        if not (line := self._answers.readline()).endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        if isinstance(answer, str):
            return answer
        if isinstance(answer, dict):
            return VideoHeader(**answer)
        shape, indices, source_fps, num_source_frames = answer
        pixels = torch.empty(shape, dtype=torch.uint8)
        if self._answers.readinto(pixels.numpy().data) < pixels.numel():
            raise EOFError
        return Frames(pixels, tuple(indices), source_fps, num_source_frames)

    def end(self) -> int:
        """Kill it, unless it has ended, and return its exit code."""
        self._answers.close()
        self._socket.close()
        if self._parent != os.getpid():
            return 0
        self._parent = 0  # once only: later the number may be another process's
        try:
            os.kill(self._pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        except OSError:  # where a launcher had SIGCHLD ignored, nobody can wait for a child
            return 0

    def __del__(self) -> None:
        if hasattr(self, "_answers"):  # else it was not forked
            self.end()


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


# In the child


def _serve(read: Callable[[str], Answer], seconds: float, memory_gb: float, parent: socket.socket) -> NoReturn:
    """Answer until the parent ends; never return to the parent's code, nor run what it does at its exit."""
    try:
        _settle(memory_gb, parent.fileno())
        for line in parent.makefile("rb"):
            signal.setitimer(signal.ITIMER_REAL, seconds)  # it kills, even where a library holds the interpreter
            answer = _answer(read, json.loads(line), memory_gb)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if isinstance(answer, Frames):
                shape = [*answer.pixels.shape]
                parent.sendall(_line([shape, answer.indices, answer.source_fps, answer.num_source_frames]))
                parent.sendall(answer.pixels.numpy().data)
            else:
                parent.sendall(_line(answer if isinstance(answer, str) else asdict(answer)))
    except ConnectionError:  # the parent has ended meanwhile
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _settle(memory_gb: float, parent: int) -> None:
    """Become a process of its own: signals, open files, threads and limits."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _FOR_THE_PARENT)
    gc.freeze()  # an inherited object that is collected here could close a number that is another file by then
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != parent:
            with suppress(OSError):  # the listing has closed its own
                os.close(number)
    torch.set_num_threads(1)  # OpenMP's other threads are not here
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The address space that is inherited, which is vast where CUDA runs, and so much more.
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * mmap.PAGESIZE + int(memory_gb * 2**30)
    with suppress(ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(read: Callable[[str], Answer], path: str, memory_gb: float) -> Answer | str:
    try:
        return read(path)
    except VideoError as error:
        return error.reason
    except MemoryError:
        return f"needs more than {memory_gb:g} GiB of memory to read: it is damaged or too large"
    except Exception as error:
        return f"cannot be read ({type(error).__name__}: {error})"
