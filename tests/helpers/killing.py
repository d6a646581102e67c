"""Callbacks that end their own process or job, as a cluster would, and the number of kills of a test."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint


def num_kills(default: int) -> int:
    """Return the number of kills of a test: a few, unless DESCORE_KILLS says another number."""
    return int(os.environ.get("DESCORE_KILLS", default))


class KillAt(Checkpoint):
    """Kills its process in a hook; as a Checkpoint it comes after all other callbacks.

    Args:
        hook: Name of the hook.
        step: Number of optimizer steps that are done by then.
    """

    def __init__(self, hook: str, step: int) -> None:
        self.step = step
        setattr(self, hook, self._kill)

    def _kill(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at(hook: str, step: int) -> tuple[str, ...]:
    """Return the arguments that add `KillAt` to a run."""
    return (
        "--trainer.callbacks+=tests.helpers.killing.KillAt",
        f"--trainer.callbacks.hook={hook}",
        f"--trainer.callbacks.step={step}",
    )


class Ask(Callback):
    """Asks its own job, workers and all, to leave in the middle of a step, as a scheduler would.

    Args:
        step: The step; in the validation after it, if that is wanted.
        number: The signal.
        validating: Whether to wait for the validation after the step.
        launcher: Whether to ask the process that launched this one, and no other.
    """

    def __init__(self, step: int, number: int, validating: bool = False, launcher: bool = False) -> None:
        self.step = step
        self.number = number
        self.validating = validating
        self.launcher = launcher

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._ask(trainer, validating=False)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._ask(trainer, validating=True)

    def _ask(self, trainer: Trainer, *, validating: bool) -> None:
        if trainer.is_global_zero and (trainer.global_step, validating) == (self.step, self.validating):
            whom = os.getppid() if self.launcher else -os.getpgid(0)
            subprocess.run(["kill", f"-{self.number}", "--", str(whom)], check=False)


class Fail(Callback):
    """Ends one rank of a job before its time, while the others wait for something else than it.

    Args:
        rank: The rank.
        step: The step in which it ends.
        place: Where in it: at its start, in the validation after it, or in the thoughts of stage 2.
        number: The signal that ends it; 0 raises an error.
        mark: File that is written at that moment.
    """

    def __init__(
        self, rank: int, step: int, place: Literal["step", "validation", "thoughts"], number: int, mark: str
    ) -> None:
        self.rank = rank
        self.step = step
        self.place = place
        self.number = number
        self.mark = mark

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step and self.place == "step":
            self._fail_or_wait(trainer.global_rank)
        if (trainer.global_rank, trainer.global_step, self.place) == (self.rank, self.step, "thoughts"):
            pl_module.model.next_logits = self._fail

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and self.place == "validation":
            self._fail_or_wait(trainer.global_rank)

    def _fail_or_wait(self, rank: int) -> None:
        if rank == self.rank:
            self._fail()
        time.sleep(600)

    def _fail(self, *_: Any) -> None:
        Path(self.mark).touch()
        if self.number:
            os.kill(os.getpid(), self.number)
        raise RuntimeError(f"rank {self.rank} cannot go on")
