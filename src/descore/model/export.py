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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from descore.atomic import complete_path, draft_of, remove, replace
from descore.inputs.backbone import download, is_hub_id
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.model.merging import Exportable, has_adapter, merged_state, query_rows, trained_in_full
from descore.types import ModelError

FORMAT = 1
Weights = Literal["merged", "adapter"]


Model = TypeVar("Model", bound=Exportable)


class ExportError(ModelError):
    """An exported folder that cannot be loaded: the message says what is missing, extra or of the wrong shape."""


@dataclass(frozen=True, slots=True)
class RewardStatistics:
    """Statistics of each reward over the validation videos, which make rewards of different models comparable.

    Attributes:
        mean: Mean of each reward, in the order of the model's reward names.
        std: Standard deviation of each reward, in the same order.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def save(
    model: Exportable, folder: str | Path, *, weights: Weights = "merged", calibration: RewardStatistics | None = None
) -> None:
    """Write an exported folder atomically: it appears complete or not at all.

    Args:
        model: Model to export, trained or not. It is not changed.
        folder: Folder to write. An older export at this path is replaced.
        weights: "merged" writes the whole backbone with the adapters added to its layers. "adapter" writes only what
            was trained; loading it needs the original backbone.
        calibration: Statistics of the rewards, kept in `descore.json`.

    Raises:
        ValueError: If the folder holds something other than an export. With "adapter", if the model has no adapter, or
            if its training started from an exported folder.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    if weights == "adapter":
        _check_adapter(model)
    remove(draft := draft_of(folder))
    draft.mkdir(parents=True)
    tensors = {"head.weight": model.head.weight, "query.weight": query_rows(model)}
    _save_metadata(model, draft / "backbone")
    if weights == "merged":
        model.base.save_pretrained(draft / "backbone", state_dict=merged_state(model))
    else:
        tensors |= trained_in_full(model)
        # Left to itself, PEFT looks on the hub whether the vocabulary was resized.
        model.network.save_pretrained(str(draft / "adapter"), save_embedding_layers=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, draft / "reward.safetensors")
    description = {
        "format": FORMAT,
        "weights": weights,
        "settings": model.processor.settings.to_json(),
        "calibration": calibration and {"mean": calibration.mean, "std": calibration.std},
        "tensors": {name: list(tensor.shape) for name, tensor in plain.items()},
    }
    (draft / "descore.json").write_text(json.dumps(description, indent=2) + "\n")
    replace(draft, folder)


def load(folder: str | Path, build: Callable[[Processor, Any], Model]) -> Model:
    """Load a model from an exported folder or hub id, in float32 and with adapters merged.

    Args:
        folder: Path of the folder, or its id on the hub.
        build: Function that makes the model from its processor and its transformers model.

    Raises:
        ExportError: If a tensor is missing, extra or of another shape. No tensor is ever left at random values.
    """
    folder = _find(folder)
    description = describe(folder)
    tensors = _read_tensors(folder, description["tensors"])
    processor = Processor(ModelSettings.from_json(description["settings"]), folder / "backbone")
    if description["weights"] == "merged":
        model = build(processor, _load_merged(folder / "backbone"))
    else:
        model = build(processor, _load_adapter(processor, folder / "adapter"))
    _assign(model, tensors)
    return model


def describe(folder: str | Path) -> dict[str, Any]:
    """Read `descore.json` of an exported folder or hub id.

    Raises:
        ExportError: If there is no such folder, it has no `descore.json`, or its format is of another version.
    """
    path = _find(folder) / "descore.json"
    if not path.is_file():
        raise ExportError(f"{folder} is not an exported folder: it has no descore.json")
    description: dict[str, Any] = json.loads(path.read_text())
    if description.get("format") != FORMAT:
        raise ExportError(f"{path} has format {description.get('format')!r}; this version reads format {FORMAT}")
    return description


def digest(folder: str | Path) -> str:
    """Hash the names and bytes of all files of an exported folder or hub id: equal digests mean equal models."""
    folder = _find(folder)
    whole_folder = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
        whole_folder.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return whole_folder.hexdigest()


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and ((folder / "descore.json").is_file() or not any(folder.iterdir()))):
        raise ValueError(f"{folder} exists and is not an exported folder; expected a new path, or an export to replace")


def _find(folder: str | Path) -> Path:
    if (path := complete_path(Path(folder))).is_dir():
        return path
    if not is_hub_id(str(folder)):
        raise ExportError(
            f"{folder} is neither an existing folder nor a hub id such as owner/name; a run of either stage writes its "
            "exported folder to export/last"
        )
    try:
        return download(str(folder))
    except ValueError as error:
        raise ExportError(f"{error}; a run of either stage writes its exported folder to export/last") from error


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


def _load_merged(folder: Path) -> Any:
    network, found = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True
    )
    problems = {kind: found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if found[kind]}
    if problems:
        raise ExportError(
            f"{folder} does not hold the weights that its configuration asks for: {problems}; export the model again"
        )
    return network


def _load_adapter(processor: Processor, folder: Path) -> Any:
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / "adapter_model.safetensors"
    found = _shapes(path)
    wrapped = PeftModel(processor.backbone.load_weights(), PeftConfig.from_pretrained(str(folder)))
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    _check_shapes(path, found, {name: list(tensor.shape) for name, tensor in state.items()})
    set_peft_model_state_dict(wrapped, load_file(path))
    return wrapped.merge_and_unload()


def _read_tensors(folder: Path, expected: dict[str, list[int]]) -> dict[str, Tensor]:
    path = folder / "reward.safetensors"
    _check_shapes(folder, _shapes(path), expected)
    return load_file(path)


def _shapes(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        raise ExportError(f"{path} is missing; export the model again")
    with safe_open(path, framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _check_shapes(where: Path, found: dict[str, list[int]], expected: dict[str, list[int]]) -> None:
    """Raise ExportError unless both hold the same names with the same shapes."""
    problems = [f"missing {name}" for name in expected.keys() - found.keys()]
    problems += [f"extra {name}" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {found[name]}, expected {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    if problems:
        raise ExportError(f"{where}: {'; '.join(sorted(problems))}")


def _assign(model: Exportable, tensors: dict[str, Tensor]) -> None:
    """Copy head, query rows and fully trained parts into the model; every tensor must have its name and shape."""
    parameters = {f"network.{name}": parameter for name, parameter in model.base.named_parameters()}
    parameters["head.weight"] = model.head.weight
    embedding = model.base.get_input_embeddings().weight
    expected = {"query.weight": [len(model.processor.query_ids), embedding.shape[1]]}
    expected |= {name: list(parameters[name].shape) for name in {*tensors, "head.weight"} if name in parameters}
    _check_shapes(Path("reward.safetensors"), {name: list(tensor.shape) for name, tensor in tensors.items()}, expected)
    with torch.no_grad():
        embedding[model.processor.query_ids] = tensors.pop("query.weight")
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
