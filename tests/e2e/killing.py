"""A callback that kills its own process, as a cluster would."""

import os
import signal
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
