"""Tensors of published files: read, renamed and merged, so that each keeps its name there and none is lost."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from descore.inputs.tensor_files import reading
from descore.inputs.typed_json import FileError

_LORA = re.compile(r"(?P<layer>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_WRAPPER = "base_model.model."
_PLACES = {"visual.": "model.visual.", "model.": "model.language_model."}
"""Beginnings of names before transformers 4.52, and what they are now."""


class Named(NamedTuple):
    """A tensor, and its name in the published file."""

    source: str
    tensor: Tensor


Tensors = dict[str, Named]


@dataclass(frozen=True, slots=True)
class Lora:
    """Size and weight of LoRA adapters.

    Attributes:
        rank: Rank r.
        alpha: Constant that the product of the halves is multiplied with, divided by r.
        rank_stabilised: Whether it is divided by the square root of r instead.
    """

    rank: int
    alpha: float
    rank_stabilised: bool = False

    @property
    def factor(self) -> float:
        """What the product of the halves is multiplied with.

        >>> Lora(64, 128).factor, Lora(64, 128, rank_stabilised=True).factor
        (2.0, 16.0)
        """
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


def read_pickle(path: Path) -> Any:
    """Read a file of `torch.save` with `weights_only=True`, which runs no code of the file.

    Raises:
        FileError: If the file is missing or damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileError(f"{path} is missing")
    with reading(path):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_safetensors(paths: Iterable[Path]) -> Tensors:
    """Read the tensors of one or several safetensors files.

    Raises:
        FileError: If a file is missing or damaged, or a name is in two of them.
    """
    tensors: Tensors = {}
    for path in paths:
        if not path.is_file():
            raise FileError(f"{path} is missing")
        with reading(path):
            content = load_file(path)
        put_all(tensors, named(content, path), path)
    return tensors


def named(content: Any, path: Path) -> Tensors:
    """Return the tensors of a state dict.

    Raises:
        FileError: If it is something else, or a tensor is none of floating numbers or has one that is not finite.
    """
    if not isinstance(content, Mapping) or not content:
        raise FileError(f"{path}: expected tensors by name, got {type(content).__name__}")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise FileError(f"{path}: {name} is {kind}; expected a tensor of floating numbers")
        if not tensor.isfinite().all():
            raise FileError(f"{path}: {name} has numbers that are not finite")
    return {str(name): Named(str(name), tensor) for name, tensor in content.items()}


def put_all(tensors: Tensors, more: Tensors, path: Path) -> None:
    """Add tensors to others, none of which may have one of their names."""
    for name, one in more.items():
        if name in tensors:
            raise FileError(f"{path}: {one.source} and {tensors[name].source} are the same tensor, {name}")
        tensors[name] = one


def rename(tensors: Tensors, new_name: Callable[[str], str], path: Path) -> Tensors:
    """Give every tensor a new name.

    Raises:
        FileError: If two tensors get the same name.
    """
    renamed: Tensors = {}
    for name, one in tensors.items():
        put_all(renamed, {new_name(name): one}, path)
    return renamed


def unwrapped(name: str) -> str:
    """Return the name of a tensor without PEFT's wrapper around the whole model.

    >>> unwrapped("base_model.model.visual.blocks.0.norm1.weight")
    'visual.blocks.0.norm1.weight'
    """
    return name.removeprefix(_WRAPPER)


def modern(name: str) -> str:
    """Return the name of a tensor in transformers 5, from that of any version.

    >>> modern("model.layers.0.mlp.up_proj.weight"), modern("visual.patch_embed.proj.weight")
    ('model.language_model.layers.0.mlp.up_proj.weight', 'model.visual.patch_embed.proj.weight')
    >>> modern("model.visual.merger.mlp.0.bias"), modern("lm_head.weight")
    ('model.visual.merger.mlp.0.bias', 'lm_head.weight')
    """
    if name.startswith(tuple(_PLACES.values())):
        return name
    for old, new in _PLACES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def merge_lora(tensors: Tensors, lora: Lora, path: Path, layers: Iterable[str] = ()) -> Tensors:
    """Add LoRA adapters to the layers that they belong to, in float32: W + factor B A.

    Args:
        tensors: Tensors of the layers and the halves `<layer>.lora_A.weight` and `<layer>.lora_B.weight` of their
            adapters, also with `.default` in the name. A layer that PEFT wraps is named `<layer>.base_layer`.
        lora: Size and weight of the adapters.
        path: File of the adapters, for errors.
        layers: Layers that must have an adapter, beside those that are named `base_layer`.

    Raises:
        FileError: If half of an adapter or its layer is missing, or of another shape.
    """
    halves: dict[str, dict[str, Named]] = {layer: {} for layer in layers}
    merged: Tensors = {}
    for name, one in tensors.items():
        if found := _LORA.fullmatch(name):
            put_all(halves.setdefault(found["layer"], {}), {found["half"]: one}, path)
            continue
        if name.endswith(".base_layer.weight"):
            halves.setdefault(name.removesuffix(".base_layer.weight"), {})
        put_all(merged, {name.replace(".base_layer.", "."): one}, path)
    for layer, pair in halves.items():
        merged[f"{layer}.weight"] = _merge(layer, merged.get(f"{layer}.weight"), pair, lora, path)
    return merged


def _merge(layer: str, base: Named | None, pair: Mapping[str, Named], lora: Lora, path: Path) -> Named:
    missing = [f"{layer}.lora_{half}.weight" for half in "AB" if half not in pair]
    if base is None:
        missing.append(f"{layer}.weight")
    if base is None or missing:
        raise FileError(f"{path}: missing {', '.join(missing)}")
    rows, columns = base.tensor.shape[0], base.tensor.shape[-1]
    for half, expected in (("A", [lora.rank, columns]), ("B", [rows, lora.rank])):
        if (shape := list(pair[half].tensor.shape)) != expected:
            raise FileError(f"{path}: {pair[half].source} has shape {shape}, expected {expected}")
    delta = pair["B"].tensor.float() @ pair["A"].tensor.float()
    return Named(base.source, base.tensor.float() + lora.factor * delta)
