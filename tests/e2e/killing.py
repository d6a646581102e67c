"""A callback that kills its own process, as a cluster would."""

import os
import signal
import subprocess
from typing import Any

from lightning import Callback, Trainer


class Kill(Callback):
    """Saves a checkpoint after a step and dies at once.

    Args:
        step: The step after which to die.
        path: Where the checkpoint goes.
    """

    def __init__(self, step: int, path: str) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            os.kill(os.getpid(), signal.SIGKILL)


class Ask(Callback):
    """Asks its own job, workers and all, to leave in the middle of a step, as a scheduler would.

    Args:
        step: The step; in the validation after it, if that is wanted.
        number: The signal.
        validating: Whether to wait for the validation after the step.
    """

    def __init__(self, step: int, number: int, validating: bool = False) -> None:
        self.step = step
        self.number = number
        self.validating = validating

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._ask(trainer, validating=False)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._ask(trainer, validating=True)

    def _ask(self, trainer: Trainer, *, validating: bool) -> None:
        if trainer.is_global_zero and (trainer.global_step, validating) == (self.step, self.validating):
            subprocess.run(["kill", f"-{self.number}", "--", f"-{os.getpgid(0)}"], check=False)


class Fail(Callback):
    """Ends one rank of a job before its time.

    Args:
        rank: The rank.
        step: The step in which it ends.
        number: The signal that ends it; 0 raises an error.
        validating: Whether to wait for the validation after the step.
    """

    def __init__(self, rank: int, step: int, number: int = 0, validating: bool = False) -> None:
        self.rank = rank
        self.step = step
        self.number = number
        self.validating = validating

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._fail(trainer, validating=False)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._fail(trainer, validating=True)

    def _fail(self, trainer: Trainer, *, validating: bool) -> None:
        if (trainer.global_rank, trainer.global_step, validating) == (self.rank, self.step, self.validating):
            if self.number:
                os.kill(os.getpid(), self.number)
            raise RuntimeError(f"rank {self.rank} cannot go on")
