"""The two stages of DeScore's own code (arXiv 2605.05922): a backbone with a LoRA adapter, and shards of FSDP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard

from descore.importing.assembling import Published
from descore.importing.published_json import PublishedJson
from descore.importing.request import ImportRequest
from descore.importing.tensors import (
    Lora,
    Tensors,
    merge_lora,
    modern,
    named,
    put_all,
    read_pickle,
    read_safetensors,
    rename,
    unwrapped,
)
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.inputs.tensor_files import weight_files
from descore.inputs.typed_json import FileError
from descore.video.settings import VideoSettings

HEAD = "rm_head.pth"
STAGE1_FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors", "lora_adapter/*", HEAD, "README.md")
STAGE2_FILES = ("huggingface/*", "actor/huggingface/*", "**/model_world_size_*.pt", f"**/{HEAD}", "README.md")
VIDEO = VideoSettings(fps=2, min_frames=4, max_frames=768, min_pixels=3136, max_pixels=200_704)
PROTOCOL = (
    "Frames 2 a second, 4 to 768, of 3,136 to 200,704 pixels, as the published code scores; the model's own thought, "
    "then <Reward> after it in the turn of the assistant, whose state the head reads. {more} The published code "
    "computes in bfloat16."
)


def read_stage1(folder: Path, request: ImportRequest) -> Published:
    """Read a checkpoint of stage 1: the backbone without its adapter, `lora_adapter/` and `rm_head.pth`.

    Raises:
        FileError: If a file is missing or damaged, or the adapter leaves out a layer that its configuration names.
    """
    path = folder / "lora_adapter/adapter_model.safetensors"
    files = weight_files(folder)
    tensors = rename(read_safetensors(files), modern, folder)
    config = PublishedJson(path.parent / "adapter_config.json")
    adapter = rename(rename(read_safetensors([path]), unwrapped, path), modern, path)
    targets = _targets(config, tensors)
    put_all(tensors, adapter, path)
    tensors = merge_lora(tensors, _lora(config), path, targets)
    more = "Stage 1 was trained with the thought and <Reward> in the turn of the user."
    return _published(folder, folder, tensors, [*files, path, config.path], request, more, backbone=folder)


def read_stage2(folder: Path, request: ImportRequest) -> Published:
    """Read `actor/` of stage 2: `huggingface/`, shards of FSDP, and `rm_head.pth` with its tensors under "model".

    Raises:
        FileError: If a file is missing or damaged, or the shards do not fit each other.
    """
    actor = folder / "actor" if (folder / "actor").is_dir() else folder
    files = _shards(actor)
    tensors = rename(_join([read_pickle(file) for file in files], actor), modern, actor)
    return _published(folder, actor, tensors, files, request, "", backbone=actor / "huggingface")


def _published(
    folder: Path,
    actor: Path,
    tensors: Tensors,
    files: list[Path],
    request: ImportRequest,
    more: str,
    *,
    backbone: Path,
) -> Published:
    content = read_pickle(actor / HEAD)
    if isinstance(content, Mapping):
        content = content.get("model", content)
    head = rename(named(content, actor / HEAD), unwrapped, actor / HEAD)
    put_all(tensors, {{"rm_head.weight": "head.weight"}.get(name, name): one for name, one in head.items()}, actor)
    settings = ModelSettings(
        request.backbone or request.source,
        PromptTemplate.read(request.template or "descore").text,
        video=VIDEO,
    )
    read = [*files, actor / HEAD]
    return Published(
        settings,
        tensors,
        actor,
        {path.relative_to(folder).as_posix(): path for path in read},
        " ".join(PROTOCOL.format(more=more).split()),
        backbone=None if request.backbone else backbone,
    )


def _lora(config: PublishedJson) -> Lora:
    rank, alpha = config.read(int, "r"), config.read(float, "lora_alpha")
    for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform"):
        if config.content.get(key):
            raise FileError(f"{config.path} has {key}, which is not supported; expected plain LoRA")
    if rank < 1:
        raise FileError(f"{config.path}: expected r of at least 1, got {rank}")
    return Lora(rank, alpha, bool(config.read(bool | None, "use_rslora")))


def _targets(config: PublishedJson, tensors: Tensors) -> list[str]:
    """Return the layers that the adapter must have: those that the configuration names, whole or by their ends."""
    ends = [modern(name) for name in config.read(list[str], "target_modules")]
    layers = {name.removesuffix(".weight") for name, one in tensors.items() if one.tensor.ndim == 2}
    found = [layer for layer in layers if any(layer == end or layer.endswith(f".{end}") for end in ends)]
    if not found:
        raise FileError(f"{config.path}: the backbone has none of the layers in target_modules")
    return sorted(found)


def _shards(folder: Path) -> list[Path]:
    """Return the shards of the weights in the order of their ranks; all must be there."""
    found: dict[int, Path] = {}
    sizes = set()
    for path in folder.glob("model_world_size_*_rank_*.pt"):
        if parts := re.fullmatch(r"model_world_size_(\d+)_rank_(\d+)\.pt", path.name):
            sizes.add(int(parts[1]))
            found[int(parts[2])] = path
    if len(sizes) != 1:
        raise FileError(
            f"{folder}: expected model_world_size_<n>_rank_<i>.pt of one n, found {sorted(sizes) or 'none'}"
        )
    (size,) = sizes
    if missing := [rank for rank in range(size) if rank not in found]:
        raise FileError(f"{folder} is missing model_world_size_{size}_rank_{missing[0]}.pt")
    return [found[rank] for rank in range(size)]


@torch.no_grad()
def _join(shards: list[Any], folder: Path) -> Tensors:
    """Join the shards of every tensor along its first dimension, or take it whole where each rank has all of it."""
    if not all(isinstance(shard, Mapping) for shard in shards):
        raise FileError(f"{folder}: expected tensors by name in every model_world_size_<n>_rank_<i>.pt")
    names = {name for shard in shards for name in shard}
    tensors: Tensors = {}
    for name in sorted(names):
        if missing := [rank for rank, shard in enumerate(shards) if name not in shard]:
            raise FileError(f"{folder}: rank {missing[0]} is missing {name}")
        tensors |= named({name: _whole(name, [shard[name] for shard in shards], folder)}, folder)
    return tensors


def _whole(name: str, parts: list[Any], folder: Path) -> Any:
    if not all(isinstance(part, DTensor) for part in parts):
        _check_equal(name, parts, folder)
        return parts[0]
    placements = {part.placements for part in parts}
    local = [part.to_local() for part in parts]
    if placements == {(Replicate(),)}:
        _check_equal(name, local, folder)
        return local[0]
    if placements != {(Shard(0),)}:
        raise FileError(f"{folder}: {name} is divided by {placements}; expected shards of the first dimension")
    whole = torch.cat(local)
    if (expected := {tuple(part.shape) for part in parts}) != {tuple(whole.shape)}:
        raise FileError(f"{folder}: the shards of {name} give {list(whole.shape)}, expected {sorted(expected)}")
    return whole


def _check_equal(name: str, parts: Iterable[Any], folder: Path) -> None:
    first, *others = parts
    if not isinstance(first, torch.Tensor) or not all(
        isinstance(other, torch.Tensor) and torch.equal(first, other) for other in others
    ):
        raise FileError(f"{folder}: the ranks have different values for {name}, of which each should have all")
