"""Run tasks that depend on each other, several at a time, each once and in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

PRELOADED = ["descore.train", "descore.modules.cold_start", "descore.modules.rl", "descore.evaluation.run"]


@dataclass(frozen=True)
class Task:
    """Something to run once.

    Attributes:
        name: Unique name, also of its mark and its log.
        run: Function that can be pickled.
        arguments: Arguments of the function. A finished task whose arguments have changed is an error.
        needs: Names of the tasks that must have finished before.
    """

    name: str
    run: Callable[..., None]
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()


class TaskError(RuntimeError):
    """A task that failed, or that finished with other arguments."""


def run_tasks(tasks: Sequence[Task], folder: Path, jobs: int) -> None:
    """Run all tasks that have not finished, in their order where they do not wait for each other.

    Args:
        tasks: The tasks.
        folder: Folder of the marks (done/) and the logs (logs/).
        jobs: Number of tasks at a time; they share the cores equally.

    Raises:
        TaskError: If a task fails, with the end of its log, once the running ones have finished.
    """
    for name in ("done", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    waiting = {task.name: task for task in tasks if not _is_done(task, folder)}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # Before the server starts, from which every process is forked.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        running: dict[Future[float], Task] = {}
        while waiting or running:
            pending = set(waiting) | {task.name for task in running.values()}
            ready = [task for task in waiting.values() if not pending & set(task.needs)]
            for task in ready[: jobs - len(running)]:
                running[pool.submit(_run, task, folder)] = waiting.pop(task.name)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                if (error := future.exception()) is not None:
                    raise TaskError(_describe(task, folder, error)) from error
                left = f"{len(waiting) + len(running)} of {len(tasks)} tasks left"
                print(f"{task.name}: {future.result():.0f} s, {left}", file=sys.stderr, flush=True)


def _run(task: Task, folder: Path) -> float:
    """Run a task in this process, with all its output in its log, and leave its mark; return the seconds it took."""
    begun = time.monotonic()
    with _log(task, folder).open("a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        task.run(*task.arguments)
    seconds = time.monotonic() - begun
    draft = _mark(task, folder).with_suffix(".draft")
    draft.write_text(json.dumps({"arguments": task.arguments, "seconds": round(seconds, 1)}))
    draft.replace(_mark(task, folder))
    return seconds


def _is_done(task: Task, folder: Path) -> bool:
    mark = _mark(task, folder)
    if not mark.exists():
        return False
    found = tuple(json.loads(mark.read_text())["arguments"])
    if found != task.arguments:
        raise TaskError(
            f"{mark}: {task.name} has finished with {' '.join(found)}, expected {' '.join(task.arguments)}; remove the "
            "mark and what the task left, or choose another --root"
        )
    return True


def _describe(task: Task, folder: Path, error: BaseException) -> str:
    log = _log(task, folder)
    tail = "\n".join(log.read_text(errors="replace").replace("\r", "\n").splitlines()[-20:])
    return f"{task.name} failed: {error!r}. The end of {log}:\n{tail}"


def _mark(task: Task, folder: Path) -> Path:
    return folder / "done" / f"{task.name}.json"


def _log(task: Task, folder: Path) -> Path:
    return folder / "logs" / f"{task.name}.txt"
