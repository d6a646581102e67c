"""Sharded training by FSDP1: Lightning's `FSDPStrategy`, and what it lacks for this model. FSDP2 is the default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision.fsdp import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from descore.model.reward_model import RewardModel
from descore.runtime.checkpoints import check_bytes
from descore.runtime.fsdp1_unit import Unit, shard
from descore.runtime.sharding import Backward, Loss, Sharding, ShardingStrategy

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


class Sharded(Sharding):
    """A model that FSDP1 has sharded: a `Unit` stands for it."""

    is_sharded = True

    def __init__(self, unit: Unit) -> None:
        super().__init__(cast("RewardModel", unit))
        self.unit = unit

    def gathered(self) -> AbstractContextManager[None]:
        """Gather the full weights on every rank; see `Sharding.gathered`."""
        return self.unit.gathered()

    def trained_state(self) -> dict[str, Tensor]:
        """Return the full weights that train, on rank 0."""
        return self.unit.trained_state()

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients to at most a norm over all ranks, and return the norm they had."""
        trained = self.trained()
        norm = self.total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(trained, limit, norm)
        return norm

    def total_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Norm of some gradients, all together and over all ranks."""
        return self.unit.total_norm(gradients)

    def split_backward(
        self,
        passes: Sequence[Callable[[], Loss]],
        backward: Backward,
        mean_over_ranks: Callable[[Tensor], Tensor],
    ) -> tuple[list[Loss], list[Tensor]]:
        """Back-propagate the parts of all passes, then the totals, from forwards of their own.

        A forward can go backward only once: FSDP1 then takes its hooks, and the weights, away.
        """
        trained = self.trained()
        for run in passes:
            backward(run().part)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained]
        for parameter in trained:
            parameter.grad = None
        losses = []
        for run in passes:
            losses.append(loss := run())
            backward(loss.total)
        return losses, gradients


class FSDP1Strategy(FSDPStrategy, ShardingStrategy):
    """Shard the model over all ranks of the run, by FSDP1.

    A checkpoint is one file, as a run on one device writes and reads it, and fits any number of ranks.

    Args:
        timeout_minutes: Minutes after which a rank that waits for another one gives up.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Start the ranks."""
        precision = self.precision_plugin.precision
        if precision not in DTYPES:
            raise ValueError(f"trainer.precision is {precision}; expected {' or '.join(DTYPES)} under FSDP1")
        self.precision_plugin = FSDP1Precision(precision, self.root_device)
        super().setup_environment()

    def shard(self, model: RewardModel) -> Sharding:
        """Shard a model over all ranks."""
        return Sharded(shard(model, self.root_device, DTYPES[self.precision_plugin.precision]))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the full weights that train on rank 0, nothing on the others."""
        return {f"model.{name}": tensor for name, tensor in self._unit().trained_state().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the moments as the optimizer of a single rank does, on rank 0; nothing on the others."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._unit().moments(plain)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and moments of a checkpoint file, written by any number of ranks; return the rest."""
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder of shards, and FSDP1 reads one file: resume with conf/overlay/fsdp.yaml, which "
                "can also write one file, by --trainer.strategy.save_distributed_checkpoint false"
            )
        check_bytes(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        unit = self._unit()
        unit.load_trained({name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()})
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            unit.load_moments(optimizer, state)
        return checkpoint

    def _unit(self) -> Unit:
        system: Any = self.lightning_module
        unit: Unit = system.model
        return unit


class FSDP1Precision(FSDPPrecision):
    """Leaves weights, batches and the result of a step as they are, and works on other devices than GPUs.

    Args:
        precision: One of the keys of `DTYPES`.
        device: Device of this rank.
    """

    def __init__(self, precision: Any, device: torch.device) -> None:
        super().__init__(precision)
        self.device = device

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Return the module, whose weights are sharded by now."""
        return module

    def convert_input(self, data: Any) -> Any:
        """Return a batch as it is: Lightning cannot cast frozen dataclasses."""
        return data

    def convert_output(self, data: Any) -> Any:
        """Return the result of a step as it is."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """Context manager: compute in bfloat16, if that is the precision."""
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
