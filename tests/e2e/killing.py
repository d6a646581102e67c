"""A callback that asks its own job to leave, as a cluster would."""

import os
import subprocess
from typing import Any

from lightning import Callback, Trainer


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
