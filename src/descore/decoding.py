"""Reading videos in child processes: a file that hangs or crashes its decoder costs that file, and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import mmap
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from descore.types import Frames
from descore.video_checks import VideoError

# What a scheduler or a terminal sends to all processes of a job: the parent decides, and needs its child until then.
_FOR_THE_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
_LEFT_ALONE = "the file is left alone until it changes; write it again, or leave it out"

Read = Callable[[str], Frames]
_Answer = dict[str, Any]


class Decoder:
    """Reads videos as `read` does, each in a child process with limits of time and memory.

    A child is forked when it is needed, as many as threads read at a time, and serves until a file kills it. It ignores
    the signals that stop a run, uses no GPU, and dies with its parent. Copies in other processes have children of their
    own. A file that hung or crashed is refused at once when it is asked for again.

    Args:
        read: Reads one video; raises `VideoError` where it cannot.
        seconds: Time limit for one video.
        memory_gb: Memory that a child may take for one video, in GiB.
    """

    def __init__(self, read: Read, *, seconds: float = 60.0, memory_gb: float = 8.0) -> None:
        self.read = read
        self.seconds = seconds
        self.memory_gb = memory_gb
        self._quarantine: dict[tuple[str, int, int], str] = {}
        self._idle: list[_Child] = []

    def __call__(self, path: str) -> Frames:
        """Read one video.

        Raises:
            VideoError: As `read` does, and if the limits were passed, the child died, or `read` raised something else.
        """
        file = _identity(path)
        if file in self._quarantine:
            raise VideoError(path, self._quarantine[file])
        child = self._take()
        try:
            answer = child.ask(path, self.seconds)
        except _ChildLostError as error:
            self._quarantine[file] = str(error)
            raise VideoError(path, str(error)) from None
        self._idle.append(child)
        if "reason" in answer:
            raise VideoError(answer["path"], answer["reason"])
        return Frames(answer["pixels"], tuple(answer["indices"]), answer["source_fps"], answer["num_source_frames"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_idle": []}

    def _take(self) -> _Child:
        with contextlib.suppress(IndexError):  # raised where there is none, or another thread took the last one
            while True:
                child = self._idle.pop()
                if child.is_alive():
                    return child
                child.end()
        return _Child(self.read, self.memory_gb)


class _ChildLostError(Exception):
    """A child that hung or died; the message is the reason, as a `VideoError` gives it."""


class _Child:
    """One child process, and the way to it: a pipe for requests, and shared memory for frames."""

    def __init__(self, read: Read, memory_gb: float) -> None:
        self._parent = os.getpid()
        self._frames = _SharedBytes()
        self._pipe, pipe = Pipe()
        lifeline, self._lifeline = os.pipe()
        # A signal between the fork and `_settle` would run the parent's handler in the child.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _run_child(read, memory_gb, pipe, lifeline, self._frames)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        pipe.close()
        os.close(lifeline)

    def is_alive(self) -> bool:
        """Whether it is a child of this process and waits for a request."""
        return self._parent == os.getpid() and not self._pipe.poll()  # it says nothing unasked: only its end is heard

    def ask(self, path: str, seconds: float) -> _Answer:
        """Have a video read; its pixels are a copy of what is shared."""
        try:
            self._pipe.send_bytes(json.dumps(path).encode())
            if not self._pipe.poll(seconds):
                raise _ChildLostError(f"took more than {seconds:g} s to read: {_LEFT_ALONE}")
            answer: _Answer = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            raise _ChildLostError(f"the decoder died of it ({self.end()}): {_LEFT_ALONE}") from None
        except BaseException:
            self.end()
            raise
        if "shape" in answer:
            answer["pixels"] = _copy(self._frames.view(answer["shape"]))
        return answer

    def end(self) -> str:
        """Kill the child, unless it is another process's, close the way to it, and say how it ended."""
        if self._pipe.closed:
            return ""
        self._pipe.close()
        os.close(self._lifeline)
        self._frames.close()
        if self._parent != os.getpid():
            return ""
        try:
            os.kill(self._pid, signal.SIGKILL)  # does nothing to one that is dead but not waited for
            code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        except OSError:  # where a launcher had SIGCHLD ignored, nobody can wait for a child
            return "cause unknown"
        return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # raised where __init__ failed, and in a process that ends
            self.end()


class _SharedBytes:
    """Memory that a child writes and its parent reads. It grows, and is kept: fresh pages cost more than the copy."""

    def __init__(self) -> None:
        self._file = _anonymous_file()
        self._map: mmap.mmap | None = None

    def view(self, shape: list[int]) -> Tensor:
        """Bytes from the start, as a uint8 tensor of a shape."""
        size = torch.Size(shape).numel()
        if self._map is None or len(self._map) < size:
            os.ftruncate(self._file, max(size, os.fstat(self._file).st_size))
            self._map = mmap.mmap(self._file, size)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=size).view(shape)

    def fileno(self) -> int:
        return self._file

    def close(self) -> None:
        os.close(self._file)


def _anonymous_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("frames")  # not in /dev/shm, which containers limit to 64 MB
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _copy(frames: Tensor) -> Tensor:
    """Copy to memory of this process, in huge pages where there are any: that takes a third of the time."""
    memory = mmap.mmap(-1, frames.numel(), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8).view(frames.shape).copy_(frames)


def _identity(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return path, 0, 0
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


# In the child


def _run_child(read: Read, memory_gb: float, pipe: Connection, lifeline: int, frames: _SharedBytes) -> None:
    """Answer requests until the parent ends; never return to the parent's code, nor run what it does at its exit."""
    try:
        _settle(memory_gb, lifeline, keep={0, 1, 2, pipe.fileno(), lifeline, frames.fileno()})
        while True:
            answer = _answer(read, json.loads(pipe.recv_bytes()), frames, memory_gb)
            pipe.send_bytes(json.dumps(answer).encode())
    except EOFError:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _settle(memory_gb: float, lifeline: int, keep: set[int]) -> None:
    """Become a process of its own: signals, open files, threads and limits."""
    for number in _FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    for number in (*_CRASHES, signal.SIGIO):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # When the parent ends, however it ends, the kernel closes the lifeline and so sends SIGIO, which kills; a thread
    # that watches would need the interpreter, and PR_SET_PDEATHSIG acts at the end of the thread that forked.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.FASYNC)
    gc.freeze()  # an inherited object that is collected here could close a number that is another file by then
    for name in os.listdir("/dev/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # listing opened one itself
                os.close(int(name))
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(int(memory_gb * 2**30))


def _limit_memory(num_bytes: int) -> None:
    """Limit the address space to what is inherited, which is vast where CUDA runs, and so much more."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            inherited = int(file.read().split()[0]) * mmap.PAGESIZE
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = inherited + num_bytes if hard == resource.RLIM_INFINITY else min(inherited + num_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _answer(read: Read, path: str, shared: _SharedBytes, memory_gb: float) -> _Answer:
    try:
        frames = read(path)
        shared.view([*frames.pixels.shape]).copy_(frames.pixels)
    except VideoError as error:
        return {"path": error.path, "reason": error.reason}
    except MemoryError:
        return {
            "path": path,
            "reason": f"needs more than {memory_gb:g} GiB of memory to read: it is damaged or too large",
        }
    except Exception as error:
        return {"path": path, "reason": f"cannot be read ({type(error).__name__}: {error})"}
    return {
        "shape": [*frames.pixels.shape],
        "indices": frames.indices,
        "source_fps": frames.source_fps,
        "num_source_frames": frames.num_source_frames,
    }
