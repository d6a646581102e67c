"""The exported folder: how a trained model reaches stage 2, the scorer or another machine.

    descore.json          settings, calibration, format version, and the shapes of the tensors in reward.safetensors
    reward.safetensors    the head, the query rows, and with weights="adapter" the parts that were trained in full
    backbone/             configuration, tokenizer and pixel statistics; with weights="merged" also the weights
    adapter/              with weights="adapter": LoRA and query rows in PEFT's format

All files are safetensors or JSON, never pickle. Loading checks the name and shape of every tensor and refuses a folder
in which one is missing, extra or of another shape.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from descore.atomic import draft_of, remove, replace
from descore.demo.shipped import FOLDER, MODEL, NOTICE
from descore.inputs.backbone import resolve
from descore.inputs.network import load_network
from descore.inputs.processor import Processor
from descore.inputs.tensor_files import INDEX, check_shapes, load_finite, read_headers, weight_files
from descore.inputs.typed_json import FileError, in_one_line, read_json
from descore.model.description import (
    FILE,
    FORMAT,
    Description,
    ExportError,
    Origin,
    RewardStatistics,
    Weights,
    describe,
    find,
    portable,
    to_json,
)
from descore.model.merging import Exportable, has_adapter, merged_state, query_rows, trained_in_full
from descore.model.sums import check_sums, sum_files

__all__ = ["ExportError", "RewardStatistics", "Weights", "describe", "digest", "load", "load_processor", "save"]

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=Exportable)


def save(
    model: Exportable,
    folder: str | Path,
    *,
    weights: Weights = "merged",
    calibration: RewardStatistics | None = None,
    origin: Origin | None = None,
) -> None:
    """Write an exported folder atomically: it appears complete or not at all.

    Args:
        model: Model to export, trained or not. It is not changed.
        folder: Folder to write. An older export at this path is replaced.
        weights: "merged" writes the whole backbone with the adapters added to its layers. "adapter" writes only what
            was trained; loading it needs the original backbone.
        calibration: Statistics of the rewards, kept in `descore.json`.
        origin: Where an imported model comes from, kept there too.

    Raises:
        ValueError: If the folder holds something other than an export. With "adapter", if the model has no adapter, or
            if its training started from an exported folder.
    """
    folder = Path(folder)
    check_replaceable(folder)
    if weights == "adapter":
        _check_adapter(model)
    remove(draft := draft_of(folder))
    draft.mkdir(parents=True)
    tensors: dict[str, Tensor] = {f"head.{name}": tensor for name, tensor in model.head.named_parameters()}
    if model.processor.query_ids:
        tensors["query.weight"] = query_rows(model)
    _save_metadata(model, draft / "backbone")
    if weights == "merged":
        # Several files are summed at once, and a copy that breaks off does not start over.
        model.base.save_pretrained(draft / "backbone", state_dict=merged_state(model), max_shard_size="4GB")
    else:
        tensors |= trained_in_full(model)
        # Left to itself, PEFT looks on the hub whether the vocabulary was resized.
        model.network.save_pretrained(str(draft / "adapter"), save_embedding_layers=False)
        (draft / "adapter/README.md").unlink(missing_ok=True)  # PEFT's model card, a form without an entry
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, draft / "reward.safetensors")
    settings = model.processor.settings
    description = Description(
        format=FORMAT,
        weights=weights,
        settings=replaced(settings, backbone=portable(settings.backbone, folder)),
        tensors={name: list(tensor.shape) for name, tensor in plain.items()},
        calibration=None if settings.is_pairwise else calibration,  # a choice has no scale
        sums=sum_files(draft),
        origin=origin,
    )
    (draft / FILE).write_text(json.dumps(to_json(description), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    replace(draft, folder)


def load(folder: str | Path, build: Callable[[Processor, Any], Model], backbone: str | None = None) -> Model:
    """Load a model from an exported folder or hub id, in float32 and with adapters merged.

    Args:
        folder: Path of the folder, or its id on the hub.
        build: Function that makes the model from its processor and its transformers model.
        backbone: Backbone of an adapter, if it is not where the folder says; a hub id or folder.

    Raises:
        ExportError: If a file is missing or damaged, or a tensor is missing, extra, not finite or of another shape. No
            tensor is ever left at random values.
    """
    folder = find(folder)
    if folder == FOLDER / MODEL:
        logger.warning(NOTICE)
    description = describe(folder, backbone)
    with _loading(folder):
        tensors = _read_tensors(folder / "reward.safetensors", description.tensors)
        processor = Processor(description.settings, folder / "backbone")
        if description.weights == "merged":
            network = _load_merged(processor, folder / "backbone")
        else:
            from descore.model.adapter import load_adapter  # PEFT takes a second to import

            network = load_adapter(processor, folder / "adapter")
        model = build(processor, network)
        _assign(model, tensors, folder / "reward.safetensors")
        check_sums(folder, description.sums)
    return model


def load_processor(folder: str | Path, backbone: str | None = None) -> Processor:
    """Load the processor of an exported folder, hub id or settings file, without any weights.

    Args:
        folder: Path of the folder, or its id on the hub.
        backbone: Backbone of an adapter, if it is not where the folder says.

    Raises:
        ExportError: If a file is missing or damaged.
    """
    folder = find(folder)
    with _loading(folder):
        return Processor(describe(folder, backbone).settings, None if folder.is_file() else folder / "backbone")


def digest(folder: str | Path, backbone: str | None = None) -> str:
    """Hash the files of an exported folder or hub id, by names and bytes: equal digests mean equal models.

    What the hub adds is left out: the model card and hidden files. Of a settings file, what it says is hashed.

    Args:
        folder: Path of the folder, or its id on the hub.
        backbone: Backbone of an adapter, if it is not where the folder says. Its weights count as files of the folder.
    """
    folder = find(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if name != "README.md" and not name.startswith(".")}
    whole_folder = hashlib.blake2b(digest_size=16)
    if folder.is_file():
        whole_folder.update(json.dumps(describe(folder, backbone).settings.to_json(), sort_keys=True).encode())
    if folder.is_file() or read_json(folder / FILE).get("weights") == "adapter":
        base = resolve(describe(folder, backbone).settings.backbone, metadata_only=False)
        used = [*weight_files(base), base / "config.json", base / INDEX]
        files |= {f"backbone:{path.relative_to(base).as_posix()}": path for path in used if path.is_file()}
    for name, path in files.items():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
        whole_folder.update(f"{name} {content}\n".encode())
    return whole_folder.hexdigest()


def check_replaceable(folder: Path) -> None:
    """Check that an export may be written to a path: it is free, an empty folder, or an older export.

    Raises:
        ValueError: If it is anything else.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / FILE).is_file() or not any(folder.iterdir()))):
        raise ValueError(f"{folder} exists and is not an exported folder; expected a new path, or an export to replace")


def _save_metadata(model: Exportable, folder: Path) -> None:
    backbone = model.processor.backbone
    backbone.config.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    statistics = {"image_mean": backbone.image_mean, "image_std": backbone.image_std}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2) + "\n")


def _check_adapter(model: Exportable) -> None:
    if not has_adapter(model):
        raise ValueError('weights="adapter" needs a model with an adapter; use weights="merged"')
    if model.processor.backbone.exported:
        raise ValueError(
            'training started from an exported folder, and weights="adapter" would leave out what that model learned '
            f'beyond {model.processor.settings.backbone}; use weights="merged"'
        )


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Context manager: whatever damaged files make a reader raise becomes an `ExportError`."""
    try:
        yield
    except ExportError:
        raise
    except FileError as error:
        raise ExportError(str(error)) from error
    except Exception as error:
        raise ExportError(f"{folder} cannot be loaded: {in_one_line(error)}") from error


def _load_merged(processor: Processor, folder: Path) -> Any:
    network = load_network(folder)
    if (rows := network.get_input_embeddings().num_embeddings) < len(processor.tokenizer):
        raise FileError(f"{folder / 'tokenizer.json'} has {len(processor.tokenizer)} tokens, the weights {rows}")
    return network


def _read_tensors(path: Path, expected: Mapping[str, list[int]]) -> dict[str, Tensor]:
    check_shapes(path, read_headers(path), expected)
    return load_finite(path)


def _assign(model: Exportable, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy head, query rows and fully trained parts into the model; every tensor must have its name and shape."""
    parameters = {f"network.{name}": parameter for name, parameter in model.base.named_parameters()}
    head = {f"head.{name}": parameter for name, parameter in model.head.named_parameters()}
    parameters |= head
    embedding, query_ids = model.base.get_input_embeddings().weight, model.processor.query_ids
    expected = {"query.weight": [len(query_ids), embedding.shape[1]]} if query_ids else {}
    expected |= {name: list(parameters[name].shape) for name in {*tensors, *head} if name in parameters}
    check_shapes(path, read_headers(path), expected)
    with torch.no_grad():
        if query_ids:
            embedding[query_ids] = tensors.pop("query.weight")
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
