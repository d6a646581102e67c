"""The gradients of one loss by itself, beside those that a step accumulates."""

from __future__ import annotations

from torch import Tensor, nn


def gradients_of_shards(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """Gradients of a loss, those of the parameters left as they are.

    By a backward pass, whose hooks sum shards over processes; `torch.autograd.grad` would go past them.
    """
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    found = [parameter.grad for parameter in parameters]
    for parameter, gradient in zip(parameters, kept, strict=True):
        parameter.grad = gradient
    return found
