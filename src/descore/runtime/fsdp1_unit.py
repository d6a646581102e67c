"""What FSDP1 gathers at once, and what training needs of it beyond torch's own state dicts.

FSDP1 lays the weights of a unit in a row and cuts it into equal runs: of each weight a rank holds one run, or nothing.
So a full weight is what the ranks hold, one after the other; no other state dict is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp._common_utils import HandleTrainingState
from torch.distributed.fsdp._runtime_utils import _reshard, _unshard
from torch.optim import Optimizer

from descore.model.reward_model import RewardModel

SPREAD = "spread"
"""Stands for a moment of which every rank has a run."""


class Unit(FullyShardedDataParallel):
    """A group of weights that FSDP1 gathers at once; the outermost unit stands for the model.

    Attributes:
        shapes: Shape of each full weight of the model, by name; of the outermost unit only.
        is_gathered: Whether the full weights are on every rank.
    """

    shapes: dict[str, torch.Size]
    is_gathered = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; weights that are gathered already stay so."""
        return self.module(*args, **kwargs) if self.is_gathered else super().forward(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield parameters under the names that they have in a model that is not sharded."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.replace("_fsdp_wrapped_module.", ""), parameter

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Context manager: gather the full weights on every rank, in the precision of a forward.

        `summon_full_params` would gather them in float32.
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
        """Norm of gradients that this rank has runs of, all together and over all ranks."""
        squared = torch.zeros((), device=self.compute_device) + torch.nn.utils.get_total_norm(gradients) ** 2
        distributed.all_reduce(squared)
        return squared.sqrt()

    def trained_state(self) -> dict[str, Tensor]:
        """Gather the full weights that train, in host memory of rank 0; the others get nothing."""
        trained = self._trained()
        sizes = _sizes(list(trained.values()))
        found = {
            name: _join(parameter.detach(), size, self.shapes[name])
            for (name, parameter), size in zip(trained.items(), sizes, strict=True)
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Load this rank's run of every weight.

        Raises:
            ValueError: If names or shapes are not those of the weights that train here.
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
        """Gather the state of an optimizer as it would be on a single rank, on rank 0; the others get nothing."""
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
            # A rank without a run of it has no state of it.
            known: dict[str, Any] = next((kind[number] for kind in kinds if kind[number]), {})
            for key, value in known.items():
                run = own[number].get(key, nothing)
                whole = _join(run, sizes[number], shapes[number]) if value == SPREAD else value
                state.setdefault(number, {})[key] = whole
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]} if _is_first() else {}

    def load_moments(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Load this rank's run of every moment; a rank without a run of a weight has no state of it either."""
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
    """Shard a model: every layer by itself, the head in float32, and the rest together.

    Args:
        model: Model with the same weights on every rank; its layers are replaced.
        device: Device of this rank.
        dtype: Dtype of the gathered weights; shards, and gradients that are summed over ranks, stay float32.

    Returns:
        A unit that stands for the model.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    policy = partial(
        MixedPrecision, reduce_dtype=torch.float32, cast_forward_inputs=False, cast_root_forward_inputs=False
    )
    narrow = policy(param_dtype=None if dtype == torch.float32 else dtype)
    wrap = partial(Unit, device_id=device, use_orig_params=True, mixed_precision=narrow)
    for layers in model.processor.family.layers(model.base.model):
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
    """Make units of the adapters in a frozen layer: a unit of both would compute gradients of all weights."""
    if all(parameter.requires_grad for parameter in layer.parameters()):
        return
    for name, module in list(layer.named_modules()):
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            layer.set_submodule(name, wrap(module))


def _unify(model: RewardModel) -> None:
    """Convert weights that are in no unit yet to float32, if any of them trains: a unit has one precision."""
    inner = {id(parameter) for unit in Unit.fsdp_modules(model) for parameter in unit.parameters()}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    if any(parameter.requires_grad for parameter in rest):
        for parameter in rest:
            parameter.data = parameter.data.float()


def _optimized(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _everywhere(value: Any) -> list[Any]:
    """Return the values of all ranks."""
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _is_first() -> bool:
    return distributed.get_rank() == 0


def _sizes(parameters: Sequence[Tensor]) -> list[list[int]]:
    """Return the length of each rank's run of each parameter."""
    found = _everywhere([parameter.numel() for parameter in parameters])
    return [list(sizes) for sizes in zip(*found, strict=True)]


def _runs(parameters: Sequence[Tensor]) -> list[slice]:
    """Return this rank's run of each parameter."""
    rank = distributed.get_rank()
    return [slice(sum(sizes[:rank]), sum(sizes[: rank + 1])) for sizes in _sizes(parameters)]


def _is_like(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


def _join(run: Tensor, sizes: Sequence[int], shape: torch.Size) -> Tensor | None:
    """Concatenate the runs of all ranks, in host memory of rank 0; the others get None."""
    padded = run.new_zeros(max(sizes))
    padded[: run.numel()] = run.flatten()  # one process alone holds weights in their own shape
    runs = [torch.empty_like(padded) for _ in sizes] if _is_first() else None
    distributed.gather(padded, runs)
    if runs is None:
        return None
    return torch.cat([run[:size].cpu() for run, size in zip(runs, sizes, strict=True)]).view(shape)
