"""A run that a signal asks to leave ends its step, saves, and exits with 143, or 130 after Ctrl-C; it resumes."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.preemption import Preemption


class Ask(Callback):
    """Sends its own process a signal in the middle of a step, or in the validation after it."""

    def __init__(self, step: int, number: int, validating: bool) -> None:
        self.step, self.number, self.validating = step, number, validating

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self._ask(trainer, validating=False)

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        self._ask(trainer, validating=True)

    def _ask(self, trainer: Trainer, *, validating: bool) -> None:
        if (trainer.global_step, validating) == (self.step, self.validating):
            os.kill(os.getpid(), self.number)


def run_of(folder: Path, *callbacks: Callback) -> Trainer:
    """Six steps in an epoch, validated after the third and the sixth."""
    switches = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger", "enable_checkpointing"), False)
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*callbacks, Preemption()],
        max_epochs=1,
        limit_train_batches=6,
        limit_val_batches=1,
        val_check_interval=3,
        num_sanity_val_steps=0,
        **switches,
    )


@pytest.mark.parametrize(
    ("step", "number", "validating", "saved"),
    [
        (0, signal.SIGTERM, False, 1),
        (1, signal.SIGUSR1, False, 2),
        (1, signal.SIGINT, False, 2),
        pytest.param(2, signal.SIGUSR2, False, 3, id="before a validation, which is not skipped"),
        pytest.param(3, signal.SIGUSR1, True, 3, id="in a validation"),
    ],
)
def test_it_leaves_after_the_step_and_goes_on_from_there(tmp_path, step, number, validating, saved):
    handler = signal.getsignal(number)
    run = run_of(tmp_path, Ask(step, number, validating))
    with pytest.raises(SystemExit) as left:
        run.fit(BoringModel())
    assert left.value.code == (130 if number == signal.SIGINT else 143)
    assert signal.getsignal(number) is handler
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == run.global_step == saved
    resumed = run_of(tmp_path)
    resumed.fit(BoringModel(), ckpt_path=checkpoint, weights_only=True)
    assert resumed.global_step == 6


def test_a_second_interrupt_stops_at_once(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    run = run_of(tmp_path, Ask(1, signal.SIGINT, False), Ask(1, signal.SIGINT, False))
    with pytest.raises(SystemExit) as left:
        run.fit(BoringModel())
    assert (left.value.code, run.global_step) == (130, 1)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not list(tmp_path.iterdir())


def test_a_run_that_nobody_asks_saves_nothing(tmp_path):
    run = run_of(tmp_path)
    run.fit(BoringModel())
    assert run.global_step == 6
    assert not list(tmp_path.iterdir())
