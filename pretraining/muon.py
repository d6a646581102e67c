"""Muon: steps of equal size in all directions of a matrix; AdamW for everything that is no matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTUM, BETAS, EPSILON = 0.95, (0.9, 0.98), 1e-8


class Muon(Optimizer):
    """Optimizer of matrices by orthogonalised momentum, and of other parameters by AdamW.

    The update of a matrix is its momentum with all singular values near 1, by five Newton-Schulz iterations, times
    `0.2 sqrt(max(rows, columns))`, which gives it the size of an AdamW step (Moonlight, arXiv 2502.16982). torch's own
    Muon iterates in bfloat16, which takes half of a step on a CPU without bfloat16 units; here it is float32.

    Args:
        params: Parameter groups; those with `matrices=True` hold matrices alone.
        lr: Learning rate of groups without one of their own.
        weight_decay: Share of the learning rate by which matrices shrink at each step.
    """

    def __init__(self, params: Any, lr: float = 1e-3, *, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "matrices": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the loss of the closure, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._muon if group["matrices"] else self._adam
                    update(parameter, parameter.grad, group)
        return loss

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalise(gradient.lerp(momentum, MOMENTUM))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-0.2 * group["lr"] * max(parameter.shape) ** 0.5)

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - BETAS[0])
        square = state["square"].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = (square / (1 - BETAS[1] ** state["step"])).sqrt_().add_(EPSILON)
        parameter.addcdiv_(mean, scale, value=-group["lr"] / (1 - BETAS[0] ** state["step"]))


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return the matrix with all of its singular values between about 0.7 and 1.2, by five Newton-Schulz iterations.

    >>> values = torch.linalg.svdvals(orthogonalise(torch.tensor([[3.0, 0.0], [0.0, 0.1]])))
    >>> bool((values > 0.6).all() and (values < 1.3).all())
    True
    """
    tall = matrix.shape[0] > matrix.shape[1]
    found: Tensor = matrix.T if tall else matrix
    found = found / (found.norm() + 1e-7)
    for _ in range(5):
        product = found @ found.T
        found = 3.4445 * found + (-4.7750 * product + 2.0315 * product @ product) @ found
    return found.T if tall else found
