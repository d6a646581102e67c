"""Sharded training by FSDP1: Lightning's `FSDPStrategy`, and what it lacks for this model. FSDP2 is the default.

FSDP1 lays the weights of a unit in a row and cuts it into equal runs: of each weight a process holds one run, or
nothing. So what is whole is what the processes hold, one after the other; no other state dict is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision.fsdp import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp._common_utils import HandleTrainingState
from torch.distributed.fsdp._runtime_utils import _reshard, _unshard
from torch.optim import Optimizer

from descore.model.reward_model import RewardModel

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
SPREAD = "spread"
"""Stands for a moment of which every process has a run."""


class FSDP1Strategy(FSDPStrategy):
    """Shards the model over all processes of the run, by FSDP1.

    Checkpoints are one file, as a run on one device writes and reads it, and fit any number of processes.

    Args:
        timeout_minutes: After which processes that wait for another one give up.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Start the processes."""
        precision = self.precision_plugin.precision
        if precision not in DTYPES:
            raise ValueError(f"trainer.precision is {precision}; expected {' or '.join(DTYPES)} under FSDP1")
        self.precision_plugin = FSDP1Precision(precision, self.root_device)
        super().setup_environment()

    def shard(self, model: RewardModel) -> RewardModel:
        """Shard a model over all processes, and return what stands for it."""
        unit: Any = shard(model, self.root_device, DTYPES[self.precision_plugin.precision])
        return cast(RewardModel, unit)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return what trains: on the first process all of it, on the others nothing."""
        return {f"model.{name}": tensor for name, tensor in self._unit().trained_state().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the moments as the optimizer of one process does; on the other processes, nothing."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._unit().moments(plain)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint of one file, written by any number of processes; return what else is in it."""
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder of shards, and FSDP1 reads one file: go on with conf/overlay/fsdp.yaml, which can "
                "also write one file, by --trainer.strategy.save_distributed_checkpoint false"
            )
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
    """Leaves weights, batches and what a step returns as they are, and knows other devices than GPUs.

    Args:
        precision: One of `DTYPES`.
        device: Of this process.
    """

    def __init__(self, precision: Any, device: torch.device) -> None:
        super().__init__(precision)
        self.device = device

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Return the module, whose weights are sharded by now."""
        return module

    def convert_input(self, data: Any) -> Any:
        """Return a batch as it is, of frozen dataclasses that Lightning would fail to cast."""
        return data

    def convert_output(self, data: Any) -> Any:
        """Return what a step has returned."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """Compute in bfloat16 within, if that is the precision."""
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


class Unit(FullyShardedDataParallel):
    """What FSDP1 gathers at once; the outermost one stands for the model, and knows the shapes of its weights."""

    shapes: dict[str, torch.Size]
    is_gathered = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, with nothing gathered nor given back where all units are."""
        return self.module(*args, **kwargs) if self.is_gathered else super().forward(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Give parameters the names that they have in a model that is not sharded."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.replace("_fsdp_wrapped_module.", ""), parameter

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Hold all weights on every process meanwhile, in the precision of a forward.

        `summon_full_params` would hold them in float32.
        """
        units: list[Any] = [unit for unit in self.fsdp_modules(self) if unit._handle is not None]
        with torch.inference_mode(False), torch.no_grad():
            self.check_is_root()
            for unit in units:
                stream = unit._device_handle.current_stream()
                unit._handle._training_state = HandleTrainingState.FORWARD
                _unshard(unit, unit._handle, stream, stream)
        try:
            self._set_gathered(True)
            yield
        finally:
            self._set_gathered(False)
            with torch.inference_mode(False), torch.no_grad():
                for unit in units:
                    _reshard(unit, unit._handle, unit._handle.uses_sharded_strategy)
                    unit._handle._training_state = HandleTrainingState.IDLE

    def _set_gathered(self, is_gathered: bool) -> None:
        for unit in self.fsdp_modules(self):
            assert isinstance(unit, Unit)
            unit.is_gathered = is_gathered

    def total_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Norm of gradients that this process has runs of, all together and over all processes."""
        squared = torch.zeros((), device=self.compute_device) + torch.nn.utils.get_total_norm(gradients) ** 2
        distributed.all_reduce(squared)
        return squared.sqrt()

    def trained_state(self) -> dict[str, Tensor]:
        """Gather what has trained, in host memory of the first process; the others get nothing."""
        trained = self._trained()
        sizes = _sizes(list(trained.values()))
        found = {
            name: _join(parameter.detach(), size, self.shapes[name])
            for (name, parameter), size in zip(trained.items(), sizes, strict=True)
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Take this process's run of every weight.

        Raises:
            ValueError: If they are not those that train here.
        """
        trained = self._trained()
        shapes, expected = (
            {name: tensor.shape for name, tensor in state.items()},
            {name: self.shapes[name] for name in trained},
        )
        if shapes != expected:
            differing = sorted(name for name, _ in set(shapes.items()) ^ set(expected.items()))
            raise ValueError(
                f"the checkpoint does not fit this run, in {differing[:3]}: resume with the configuration that it was "
                "made with"
            )
        with torch.no_grad():
            for (name, parameter), run in zip(trained.items(), _runs(list(trained.values())), strict=True):
                parameter.copy_(state[name].flatten()[run].view_as(parameter))

    def moments(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather an optimizer's state, as it would be on one process, on the first process; the others get nothing."""
        parameters = _optimized(optimizer)
        sizes, shapes = _sizes(parameters), self._shapes_of(parameters)
        own = [optimizer.state.get(parameter, {}) for parameter in parameters]
        kinds = _everywhere([
            {key: SPREAD if _is_like(value, parameter.shape) else value for key, value in state.items()}
            for parameter, state in zip(parameters, own, strict=True)
        ])
        state: dict[int, dict[str, Any]] = {}
        for number, parameter in enumerate(parameters):
            nothing = parameter.new_empty(0)
            # A process without a run of it has no state of it.
            known: dict[str, Any] = next((kind[number] for kind in kinds if kind[number]), {})
            for key, value in known.items():
                run = own[number].get(key, nothing)
                whole = _join(run, sizes[number], shapes[number]) if value == SPREAD else value
                state.setdefault(number, {})[key] = whole
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]} if _is_first() else {}

    def load_moments(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Take this process's run of every moment; where it holds nothing of a weight, it counts no steps either."""
        parameters = _optimized(optimizer)
        runs, shapes = _runs(parameters), self._shapes_of(parameters)
        own = {
            number: {
                key: value.flatten()[runs[number]].view_as(parameters[number]).clone()
                if _is_like(value, shapes[number])
                else value
                for key, value in values.items()
            }
            for number, values in state["state"].items()
            if parameters[number].numel()
        }
        optimizer.load_state_dict({"state": own, "param_groups": state["param_groups"]})

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def _shapes_of(self, parameters: Sequence[nn.Parameter]) -> list[torch.Size]:
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return [self.shapes[names[id(parameter)]] for parameter in parameters]


def shard(model: RewardModel, device: torch.device, dtype: torch.dtype) -> Unit:
    """Shard a model: every layer by itself, the head in float32, and what is left together.

    Args:
        model: The model, with the same weights on every process; its layers are replaced.
        device: Of this process.
        dtype: Of the weights where they are gathered; shards, and sums of gradients over processes, stay float32.

    Returns:
        A unit that stands for the model.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    policy = partial(
        MixedPrecision, reduce_dtype=torch.float32, cast_forward_inputs=False, cast_root_forward_inputs=False
    )
    narrow = policy(param_dtype=None if dtype == torch.float32 else dtype)
    wrap = partial(Unit, device_id=device, use_orig_params=True, mixed_precision=narrow)
    backbone: Any = model.base.model
    for layers in (backbone.language_model.layers, backbone.visual.blocks):
        for index, layer in enumerate(layers):
            _wrap_adapters(layer, wrap)
            layers[index] = wrap(layer)
    if not model.base.config.tie_word_embeddings:
        # By itself, so that it has no gradient in a step without logits; one of zeros would let it decay.
        model.base.set_output_embeddings(wrap(model.base.get_output_embeddings()))
    parts: Any = model
    parts.head = wrap(model.head, mixed_precision=policy())
    _unify(model)
    unit = wrap(model)
    unit.shapes = shapes
    return unit


def _wrap_adapters(layer: nn.Module, wrap: Callable[[nn.Module], Unit]) -> None:
    """Make units of what trains in a frozen layer: one unit of both would take a gradient of all weights."""
    if all(parameter.requires_grad for parameter in layer.parameters()):
        return
    for name, module in list(layer.named_modules()):
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            layer.set_submodule(name, wrap(module))


def _unify(model: RewardModel) -> None:
    """Keep what is in no unit yet in float32, if any of it trains: a unit has one precision."""
    inner = {id(parameter) for unit in Unit.fsdp_modules(model) for parameter in unit.parameters()}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    if any(parameter.requires_grad for parameter in rest):
        for parameter in rest:
            parameter.data = parameter.data.float()


def _optimized(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _everywhere(value: Any) -> list[Any]:
    """The values of all processes."""
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _is_first() -> bool:
    return distributed.get_rank() == 0


def _sizes(parameters: Sequence[Tensor]) -> list[list[int]]:
    """Length of each process's run of each parameter."""
    found = _everywhere([parameter.numel() for parameter in parameters])
    return [list(sizes) for sizes in zip(*found, strict=True)]


def _runs(parameters: Sequence[Tensor]) -> list[slice]:
    """This process's run of each parameter."""
    rank = distributed.get_rank()
    return [slice(sum(sizes[:rank]), sum(sizes[: rank + 1])) for sizes in _sizes(parameters)]


def _is_like(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


def _join(run: Tensor, sizes: Sequence[int], shape: torch.Size) -> Tensor | None:
    """Put the runs of all processes one after the other, in host memory of the first one; the others get None."""
    padded = run.new_zeros(max(sizes))
    padded[: run.numel()] = run.flatten()  # one process alone holds weights in their own shape
    runs = [torch.empty_like(padded) for _ in sizes] if _is_first() else None
    distributed.gather(padded, runs)
    if runs is None:
        return None
    return torch.cat([run[:size].cpu() for run, size in zip(runs, sizes, strict=True)]).view(shape)
