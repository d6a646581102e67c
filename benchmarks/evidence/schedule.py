"""Tasks that wait for each other, several at a time, each in a process of its own; what is done is not done again."""

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

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PRELOADED = ["descore.train", "descore.modules.cold_start", "descore.modules.rl", "descore.evaluation.run"]


@dataclass(frozen=True)
class Task:
    """Something to run once.

    Attributes:
        name: Unique; its mark and its log are called so.
        run: A function that can be pickled.
        arguments: What it is called with; a task whose arguments have changed is refused, not done again.
        needs: Names of the tasks that have to be done before.
    """

    name: str
    run: Callable[..., None]
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()


class TaskError(RuntimeError):
    """A task that failed, or whose mark is that of another plan."""


def run_tasks(tasks: Sequence[Task], folder: Path, jobs: int) -> None:
    """Run all tasks that are not done, in their order where they do not wait for each other.

    Args:
        tasks: The tasks.
        folder: Where marks and logs go.
        jobs: Tasks at a time; the cores are shared out among them.

    Raises:
        TaskError: If a task fails, with the end of its log; those that are running then come to their end.
    """
    for name in ("done", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    waiting = {task.name: task for task in tasks if not _is_done(task, folder)}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before the server starts, which every process comes from
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        bar = progress.add_task("Evidence", total=len(tasks), completed=len(tasks) - len(waiting))
        running: dict[Future[float], Task] = {}
        while waiting or running:
            _start(waiting, running, pool, folder, jobs)
            progress.update(bar, description=", ".join(task.name for task in running.values()))
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                if (error := future.exception()) is not None:
                    raise TaskError(_describe(task, folder, error)) from error
                progress.console.print(f"{task.name}: {future.result():.0f} s")
                progress.advance(bar)


def _start(
    waiting: dict[str, Task], running: dict[Future[float], Task], pool: ProcessPoolExecutor, folder: Path, jobs: int
) -> None:
    pending = set(waiting) | {task.name for task in running.values()}
    ready = [task for task in waiting.values() if not pending & set(task.needs)]
    for task in ready[: jobs - len(running)]:
        running[pool.submit(_run, task, folder)] = waiting.pop(task.name)


def _run(task: Task, folder: Path) -> float:
    """Run a task in this process, with all that it prints in its log, and leave its mark."""
    begun = time.monotonic()
    with _log(task, folder).open("a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        task.run(*task.arguments)
    mark = _mark(task, folder)
    draft = mark.with_suffix(".draft")
    draft.write_text(json.dumps({"arguments": task.arguments, "seconds": round(time.monotonic() - begun, 1)}))
    draft.replace(mark)
    return time.monotonic() - begun


def _is_done(task: Task, folder: Path) -> bool:
    mark = _mark(task, folder)
    if not mark.exists():
        return False
    found = tuple(json.loads(mark.read_text())["arguments"])
    if found != task.arguments:
        raise TaskError(
            f"{mark}: {task.name} was done with {' '.join(found)}, and is now to be done with "
            f"{' '.join(task.arguments)}; remove its mark and what it left, or choose another --root"
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
