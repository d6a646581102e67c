"""How the weights of a model lie on the ranks: whole on each, or sharded. Training asks both the same questions.

A strategy that shards is a `ShardingStrategy`; `loading` gives what makes a `Sharding` of a model under any strategy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

import torch
from lightning.pytorch.strategies import FSDPStrategy, ParallelStrategy, Strategy
from torch import Tensor, nn

from descore.model.reward_model import RewardModel


class SplitLoss(Protocol):
    """A loss, and the part of it whose gradient is wanted by itself."""

    @property
    def total(self) -> Tensor:
        """Scalar loss that is trained on."""

    @property
    def part(self) -> Tensor:
        """Scalar loss that `total` contains."""


Loss = TypeVar("Loss", bound=SplitLoss)
Backward = Callable[[Tensor], None]


class Sharding(ABC):
    """The weights of one model on the ranks of a run.

    Attributes:
        model: The model, or what stands for it.
        is_sharded: Whether a rank holds only a part of each weight.
    """

    is_sharded: bool

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    @abstractmethod
    def gathered(self) -> AbstractContextManager[None]:
        """Context manager: gather the full weights on every rank. No-op for a model that is whole.

        Within, ranks run the model as often and as long as each of them likes: gathering weights layer by layer would
        make all of them wait for the longest thought, and gather the whole model once for every token.
        """

    @abstractmethod
    def trained_state(self) -> dict[str, Tensor]:
        """Return the full weights that train, in host memory of rank 0; nothing on the others. Every rank calls it."""

    @abstractmethod
    def clip(self, limit: float) -> Tensor:
        """Scale the gradients to at most a norm over all ranks, and return the norm they had. Every rank calls it."""

    @abstractmethod
    def total_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Norm of some gradients of the model, all together and over all ranks. Every rank calls it."""

    @abstractmethod
    def split_backward(
        self,
        passes: Sequence[Callable[[], Loss]],
        backward: Backward,
        mean_over_ranks: Callable[[Tensor], Tensor],
    ) -> tuple[list[Loss], list[Tensor]]:
        """Accumulate the gradients of the total of every pass, and find those of its part by themselves.

        Args:
            passes: Each runs a forward and gives its losses; it may be called more than once.
            backward: Back-propagates a scalar into the gradients of the parameters.
            mean_over_ranks: Averages a tensor over the ranks.

        Returns:
            The losses of every pass, and the gradients of the parts, one per trained parameter, as this rank holds it.
        """

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that train, as this rank holds them."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


class Whole(Sharding):
    """Every rank holds all weights: one device, or DDP."""

    is_sharded = False

    def gathered(self) -> AbstractContextManager[None]:
        """Return a context manager that does nothing."""
        return nullcontext()

    def trained_state(self) -> dict[str, Tensor]:
        """Return the weights that train."""
        return {name: weight.detach() for name, weight in self.model.named_parameters() if weight.requires_grad}

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients to at most a norm, and return the norm they had."""
        return torch.nn.utils.clip_grad_norm_(self.trained(), limit)

    def total_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Norm of some gradients, all together."""
        return torch.nn.utils.get_total_norm(gradients)

    def split_backward(
        self,
        passes: Sequence[Callable[[], Loss]],
        backward: Backward,
        mean_over_ranks: Callable[[Tensor], Tensor],
    ) -> tuple[list[Loss], list[Tensor]]:
        """Differentiate the part of every pass, then its total; see `Sharding.split_backward`."""
        trained, losses = self.trained(), []
        gradients = [torch.zeros_like(parameter) for parameter in trained]
        for run in passes:
            losses.append(loss := run())
            found = torch.autograd.grad(loss.part, trained, retain_graph=True, allow_unused=True)
            gradients = add_gradients(gradients, found)
            backward(loss.total)
        return losses, [mean_over_ranks(gradient) for gradient in gradients]


class ShardingStrategy(ABC):
    """A Lightning strategy that shards models."""

    @abstractmethod
    def shard(self, model: RewardModel) -> Sharding:
        """Shard a model over all ranks; every rank has the same weights before."""


@contextmanager
def loading(strategy: Strategy | None) -> Iterator[Callable[[RewardModel], Sharding]]:
    """Context manager: load models within, and lay each out on the ranks with the function that it gives.

    The ranks of a host load a model that will be sharded one after the other: the host never holds two whole copies.

    Args:
        strategy: Strategy of the trainer; None without a trainer.

    Raises:
        ValueError: If the strategy is Lightning's own FSDPStrategy.
    """
    if isinstance(strategy, ShardingStrategy):
        assert isinstance(strategy, ParallelStrategy)
        for _ in range(strategy.local_rank):
            strategy.barrier()
        yield strategy.shard
        for _ in range(strategy.local_rank, strategy.num_processes):
            strategy.barrier()
    elif isinstance(strategy, FSDPStrategy):
        raise ValueError(
            "trainer.strategy is Lightning's own FSDPStrategy, by which the shards of one rank alone would be clipped "
            "and exported: shard with conf/overlay/fsdp.yaml (FSDP2) or conf/overlay/fsdp1.yaml (FSDP1)"
        )
    else:
        yield Whole


def add_gradients(gradients: Sequence[Tensor], found: Sequence[Tensor | None]) -> list[Tensor]:
    """Add gradients one by one; None is a gradient of zeros."""
    return [old if new is None else old + new for old, new in zip(gradients, found, strict=True)]
