"""Sharded training by FSDP2: every rank holds a part of each weight, of its gradient and of its moments.

Lightning's `ModelParallelStrategy` starts the ranks and calls the hooks; torch's `fully_shard` shards the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from descore.atomic import draft_of, remove, replace
from descore.model.reward_model import RewardModel
from descore.runtime.checkpoints import METADATA, SUMS, check_bytes, drafting, save_summed, sum_of
from descore.runtime.sharding import Backward, Loss, Sharding, ShardingStrategy, add_gradients

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
SHARDS = StateDictOptions(cpu_offload=True, ignore_frozen_params=True)


class Sharded(Sharding):
    """A model that `shard` has sharded."""

    is_sharded = True

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather the full weights on every rank; see `Sharding.gathered`."""
        root: nn.Module = self.model
        units = [module for module in root.modules() if isinstance(module, FSDPModule)]
        with torch.inference_mode(False), torch.no_grad():
            for unit in units:
                unit.set_reshard_after_forward(False, recurse=False)
                unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.set_reshard_after_forward(unit is not root, recurse=False)
                unit.reshard()

    def trained_state(self) -> dict[str, Tensor]:
        """Return the full weights that train, on rank 0."""
        return trained_state(self.model)

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients to at most a norm over all ranks, and return the norm they had."""
        return _full(torch.nn.utils.clip_grad_norm_(self.trained(), limit))

    def total_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Norm of some gradients, all together and over all ranks."""
        return _full(torch.nn.utils.get_total_norm(gradients))

    def split_backward(
        self,
        passes: Sequence[Callable[[], Loss]],
        backward: Backward,
        mean_over_ranks: Callable[[Tensor], Tensor],
    ) -> tuple[list[Loss], list[Tensor]]:
        """Back-propagate the part of every pass, then its total; see `Sharding.split_backward`.

        By backward passes, whose hooks sum shards over ranks: `torch.autograd.grad` would bypass them.
        """
        trained, losses = self.trained(), []
        gradients = [torch.zeros_like(parameter) for parameter in trained]
        for run in passes:
            losses.append(loss := run())
            kept = [parameter.grad for parameter in trained]
            for parameter in trained:
                parameter.grad = None
            loss.part.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            gradients = add_gradients(gradients, [parameter.grad for parameter in trained])
            for parameter, gradient in zip(trained, kept, strict=True):
                parameter.grad = gradient
            backward(loss.total)
        return losses, gradients


class ShardedStrategy(ModelParallelStrategy, ShardingStrategy):
    """Shard the model over all ranks of the run, by FSDP2.

    Checkpoints hold the weights that train, and fit any number of ranks.

    Args:
        save_distributed_checkpoint: Whether every rank writes its own shards into a folder; otherwise rank 0 gathers
            them and writes one file, which a run on one device reads too.
        cpu_offload: Keep the shards in host memory and bring each layer to the device when it runs: slow, but small.
        process_group_backend: Backend of torch.distributed; `cpu_offload` on GPUs needs "cpu:gloo,cuda:nccl".
        timeout_minutes: Minutes after which a rank that waits for another one gives up.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        cpu_offload: bool = False,
        process_group_backend: str | None = None,
        timeout_minutes: float = 30.0,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """Start the ranks; all of them share one model."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: RewardModel) -> Sharding:
        """Shard a model over all ranks."""
        mixed = str(self.precision_plugin.precision).endswith("-mixed")
        mesh = self.device_mesh["data_parallel"]
        shard(model, mesh, torch.bfloat16 if mixed else torch.float32, cpu_offload=self.cpu_offload)
        return Sharded(model)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the weights that train: their shards, or the full weights on rank 0 and nothing on the others."""
        assert self.model is not None
        return trained_state(self.model, self._options())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the moments: by name where they are shards, else numbered as the optimizer of a single rank does."""
        assert self.model is not None
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = get_optimizer_state_dict(self.model, optimizer, options=self._options())
        if self._save_distributed_checkpoint or not state:
            return state
        return _rename(state, {name: number for number, name in enumerate(self._optimized(optimizer))})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint atomically."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        target = Path(self.broadcast(filepath))
        shards = {"state_dict": checkpoint.pop("state_dict")}
        shards |= {f"optimizer_{i}": state for i, state in enumerate(checkpoint.pop("optimizer_states", []))}
        if self.is_global_zero:
            remove(draft := draft_of(target))
            draft.mkdir(parents=True)
        self.barrier()
        with drafting(target, shards) as draft:
            save(shards, checkpoint_id=draft)
            sums = self._sum_shards(draft)
            if self.is_global_zero:
                save_summed(checkpoint | {SUMS: sums}, draft / METADATA)
                replace(draft, target)
        self.barrier()

    def _sum_shards(self, folder: Path) -> dict[str, int]:
        """Return the sum of each file of shards, and of their index; every rank reads its own."""
        own = [*folder.glob(f"__{self.global_rank}_*"), *([folder / ".metadata"] if self.is_global_zero else [])]
        sums: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(sums, {path.name: sum_of(path) for path in own})
        return {name: total for one in sums for name, total in one.items()}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and moments of a checkpoint of either kind, written by any number of ranks; return the rest."""
        assert self.model is not None
        path = Path(self.broadcast(checkpoint_path))
        check_bytes(path)
        if path.is_dir():
            shards = {"state_dict": trained_state(self.model, SHARDS)}
            for index, optimizer in enumerate(self.optimizers):
                shards[f"optimizer_{index}"] = get_optimizer_state_dict(self.model, optimizer)
            load(shards, checkpoint_id=path)
            checkpoint = torch.load(path / METADATA, map_location="cpu", weights_only=True)
            self._restore(shards, whole=False)
            return dict(checkpoint)
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        shards = {"state_dict": checkpoint["state_dict"]}
        for index, optimizer in enumerate(self.optimizers):
            names = dict(enumerate(self._optimized(optimizer)))
            shards[f"optimizer_{index}"] = _rename(checkpoint["optimizer_states"][index], names)
        self._restore(shards, whole=True)
        return dict(checkpoint)

    def _restore(self, shards: dict[str, Any], *, whole: bool) -> None:
        assert self.model is not None
        options = StateDictOptions(full_state_dict=whole, strict=False)
        found = set_model_state_dict(self.model, shards["state_dict"], options=options)
        if problems := (_trained(self.model) & set(found.missing_keys)) | set(found.unexpected_keys):
            raise ValueError(
                f"the checkpoint does not fit this run, in {sorted(problems)[:3]}: resume with the configuration that "
                "it was made with"
            )
        for index, optimizer in enumerate(self.optimizers):
            set_optimizer_state_dict(
                self.model, optimizer, shards[f"optimizer_{index}"], options=StateDictOptions(full_state_dict=whole)
            )

    def _options(self) -> StateDictOptions:
        return SHARDS if self._save_distributed_checkpoint else FULL

    def _optimized(self, optimizer: Optimizer) -> list[str]:
        """Names of the optimizer's parameters, in its order."""
        assert self.model is not None
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def shard(model: RewardModel, mesh: DeviceMesh, dtype: torch.dtype, *, cpu_offload: bool = False) -> None:
    """Shard a model in place: every layer by itself, the head in float32, and the rest together.

    Args:
        model: Model with the same weights on every rank.
        mesh: Device mesh of the ranks.
        dtype: Dtype of the gathered weights; shards, and gradients that are summed over ranks, stay float32.
        cpu_offload: Whether the shards are kept in host memory.
    """
    policy = partial(MixedPrecisionPolicy, reduce_dtype=torch.float32, cast_forward_inputs=False)
    place = OffloadPolicy() if not cpu_offload else CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    spread = partial(fully_shard, mesh=mesh, offload_policy=place)
    narrow = policy(param_dtype=None if dtype == torch.float32 else dtype)
    for layers in model.processor.family.layers(model.base.model):
        for layer in layers:
            spread(layer, mp_policy=narrow)
    spread(model.head, mp_policy=policy())
    spread(model, mp_policy=narrow)
    for method in ("see", "hidden", "step", "next_logits"):
        register_fsdp_forward_method(model, method)


def trained_state(model: nn.Module, options: StateDictOptions = FULL) -> dict[str, Any]:
    """Return the weights of a sharded model that train; every rank calls it.

    Args:
        model: A sharded model.
        options: `FULL` tensors, which only rank 0 gets, or `SHARDS`.
    """
    state, names = get_model_state_dict(model, options=options), _trained(model)
    return {name: tensor for name, tensor in state.items() if name in names}  # a tied weight has a second, frozen name


def _full(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _rename(state: dict[str, Any], names: dict[Any, Any]) -> dict[str, Any]:
    """Give the parameters of an optimizer's state other names."""
    return {
        "state": {names[key]: value for key, value in state["state"].items()},
        "param_groups": [
            group | {"params": [names[key] for key in group["params"]]} for group in state["param_groups"]
        ],
    }
