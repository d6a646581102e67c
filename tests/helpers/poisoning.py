"""A callback that puts what is not finite into a step of one rank, and sees whether the weights of any rank move."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from descore.model.reward_model import Forward

Poisoned = Literal["nothing", "loss", "gradient"]


class Poison(Callback):
    """Poisons steps, and raises an AssertionError if weights or moments move in one of them, or stay in another.

    Args:
        plan: For each step the rank, what is poisoned, and with what, such as `1 loss nan`; or `nothing`.
    """

    def __init__(self, plan: list[str]) -> None:
        self.plan = [step.split() for step in plan]
        self.num_steps = 0
        self.poisoned: Poisoned = "nothing"
        self.value = 1.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        layer = pl_module.model.base.model.language_model.layers[0]
        layer.register_forward_hook(self._poison_gradient)
        pl_module.model.register_forward_hook(self._poison_loss)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.before = state(trainer)
        rank, *what = self.plan[self.num_steps]
        if rank == str(trainer.global_rank):
            self.poisoned, self.value = what[0], float(what[1])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        after = state(trainer)
        pairs = zip(self.before, after, strict=False)
        moved = len(after) > len(self.before) or not all(torch.equal(*pair) for pair in pairs)
        assert moved == (self.plan[self.num_steps] == ["nothing"]), f"step {self.num_steps}: moved is {moved}"
        self.num_steps += 1
        self.poisoned = "nothing"

    def _poison_loss(self, model: Any, inputs: Any, output: Forward) -> Forward:
        return output._replace(rewards=output.rewards * self.value) if self.poisoned == "loss" else output

    def _poison_gradient(self, layer: Any, inputs: Any, output: Tensor) -> None:
        if self.poisoned == "gradient" and output.requires_grad:
            output.register_hook(lambda gradient: gradient.index_fill(-1, torch.tensor([0]), self.value))


def state(trainer: Trainer) -> list[Tensor]:
    """Weights that train, as far as this rank holds them, then their moments."""
    optimizer = trainer.optimizers[0]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    known = [optimizer.state[weight] for weight in weights if weight in optimizer.state]
    moments = [moment[name] for moment in known for name in ("exp_avg", "exp_avg_sq")]
    return [(value.to_local() if isinstance(value, DTensor) else value).detach().clone() for value in weights + moments]
