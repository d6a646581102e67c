"""Reads videos in child processes, so that a file that hangs or crashes its decoder affects no other file."""

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
import threading
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

# Signals that a scheduler or a terminal sends to all processes of a job. Only the parent handles them: it decides when
# to stop, and needs its children until then.
_PARENT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Result = Frames | VideoHeader
Kind = TypeVar("Kind", Frames, VideoHeader)


class IsolatedReader(Generic[Kind]):
    """Calls `read` in a child process, with limits on time and memory.

    Children are forked on demand, one for each thread that reads at the same time, and reused until a file kills them.
    A child ignores the signals that stop a run, uses no GPU, and ends with its parent. A file that hung or crashed goes
    into quarantine: it is refused at once until it changes, by this reader and by its copies in forked processes.

    On systems other than Linux, videos are read in this process without limits, since forking a process with threads is
    not safe there.

    Args:
        read: Function that reads one video, and raises `VideoError` if it cannot.
        seconds: Time limit for one video, in seconds.
        memory_gb: Memory limit for one video, in GiB.
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
            VideoError: If `read` raises any exception, a limit is exceeded, or the child process dies.
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
            reason = f"{self._describe(child.end())}; it is refused until it changes: shorten it, or encode it again"
            self._quarantine.add(file, reason)
            raise VideoError(path, reason) from None
        self._idle.append(child)
        if isinstance(answer, str):
            raise VideoError(path, answer)
        return cast("Kind", answer)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(IsolatedReader, seconds=self.seconds, memory_gb=self.memory_gb), (self.read,)

    def _idle_child(self) -> _Child | None:
        with suppress(IndexError):  # raised if there is none, also if another thread took the last one
            while not (child := self._idle.pop()).is_ready():
                child.end()
            return child
        return None

    def _describe(self, exit_code: int) -> str:
        if exit_code == -signal.SIGALRM:
            return f"took more than {self.seconds:g} s to read"
        end = f"signal {-exit_code}, {signal.strsignal(-exit_code)}" if exit_code < 0 else f"exit code {exit_code}"
        return f"the decoder process died ({end})"


class _Quarantine:
    """Files to refuse, with their reasons; shared with forked processes, since workers of a loader live one epoch."""

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
    """Return a key of a file that changes with the file; just the path if the file cannot be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return path
    return f"{os.path.abspath(path)}:{status.st_size}:{status.st_mtime_ns}"


class _Fork:
    """Forks one at a time: filelock, which huggingface_hub uses, refuses a fork during another from Python 3.12 on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        if sys.platform == "linux":
            os.register_at_fork(after_in_child=self._renew)

    def __call__(self) -> int:
        with self._lock:
            return os.fork()  # not multiprocessing, which does not allow workers of a loader to have children

    def _renew(self) -> None:
        """Replace the lock in a forked process, where the thread that held it may not exist."""
        self._lock = threading.Lock()


_fork = _Fork()


class _Child:
    """One child process: it reads a path from a line, and answers with a line of JSON and the bytes of the pixels."""

    def __init__(self, read: Callable[[str], Result], seconds: float, memory_gb: float) -> None:
        self._parent = os.getpid()
        self._socket, theirs = socket.socketpair()
        # A signal that arrives between the fork and `_settle` would run the parent's handler in the child.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_SIGNALS)
        try:
            self._pid = _fork()
            if self._pid == 0:
                _serve(read, seconds, memory_gb, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._answers = self._socket.makefile("rb")

    def is_ready(self) -> bool:
        """Return whether the child belongs to this process and waits for a path."""
        if self._parent != os.getpid():
            return False
        try:
            self._socket.recv(
                1, socket.MSG_PEEK | socket.MSG_DONTWAIT
            )  # no answer is pending, so this only sees its end
        except BlockingIOError:
            return True
        return False

    def ask(self, path: str) -> Result | str:
        """Let the child read a video; return the result, or the reason why it cannot be read.

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
        shape, indices, source_fps, num_source_frames, times = answer
        pixels = torch.empty(shape, dtype=torch.uint8)
        if self._answers.readinto(pixels.numpy().data) < pixels.numel():
            raise EOFError
        return Frames(pixels, tuple(indices), source_fps, num_source_frames, tuple(times))

    def end(self) -> int:
        """Kill the child unless it has ended, and return its exit code."""
        self._answers.close()
        self._socket.close()
        if self._parent != os.getpid():
            return 0
        self._parent = 0  # only once: later, this process id may belong to another process
        try:
            os.kill(self._pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        except OSError:  # if a launcher made this process ignore SIGCHLD, children cannot be waited for
            return 0

    def __del__(self) -> None:
        if hasattr(self, "_answers"):  # else the fork failed
            self.end()


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


# Everything below runs in the child.


def _serve(read: Callable[[str], Result], seconds: float, memory_gb: float, parent: socket.socket) -> NoReturn:
    """Answer until the parent ends; never return to the parent's code, nor run its exit handlers."""
    try:
        _settle(memory_gb, parent.fileno())
        for line in parent.makefile("rb"):
            signal.setitimer(signal.ITIMER_REAL, seconds)  # kills, even while a library holds the interpreter lock
            answer = _answer(read, json.loads(line), memory_gb)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if isinstance(answer, Frames):
                source = answer.indices, answer.source_fps, answer.num_source_frames, answer.times
                parent.sendall(_line([[*answer.pixels.shape], *source]))
                parent.sendall(answer.pixels.numpy().data)
            else:
                parent.sendall(_line(answer if isinstance(answer, str) else asdict(answer)))
    except ConnectionError:  # the parent has ended
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _settle(memory_gb: float, parent: int) -> None:
    """Detach from the parent: reset signals, close its files, use one thread, and set limits."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _PARENT_SIGNALS)
    gc.freeze()  # collecting an inherited object could close a file descriptor that belongs to another file by then
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != parent:
            with suppress(OSError):  # the listing's own descriptor is already closed
                os.close(number)
    torch.set_num_threads(1)  # the other threads of OpenMP do not exist here
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The limit comes on top of the inherited address space, which is vast where CUDA runs.
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * mmap.PAGESIZE + int(memory_gb * 2**30)
    with suppress(ValueError):  # a lower limit is already in force
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(read: Callable[[str], Result], path: str, memory_gb: float) -> Result | str:
    try:
        return read(path)
    except VideoError as error:
        return error.reason
    except MemoryError:
        return f"needs more than {memory_gb:g} GiB of memory to read: it is damaged or too large"
    except Exception as error:
        return f"cannot be read ({type(error).__name__}: {error})"
