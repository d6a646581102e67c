"""The exported folder: what one stage, the scorer or the server takes over from another.

    descore.json          settings, calibration, format version, and what tensors reward.safetensors holds
    reward.safetensors    the head, the query rows, and the parts that were trained in full ("adapter" only)
    backbone/             configuration, tokenizer and pixel statistics; with weights when merged
    adapter/              LoRA and query row in PEFT's format ("adapter" only)

Safetensors and JSON, no pickle. Every tensor is checked by name and shape; a folder that does not fit is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from descore.atomic import complete_path, draft_of, remove, replace
from descore.inputs.backbone import download, is_hub_id
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.model.merging import Exportable, merged_state, query_rows, trained_in_full

FORMAT = 1
Weights = Literal["merged", "adapter"]


Model = TypeVar("Model", bound=Exportable)


class ExportError(ValueError):
    """An exported folder that cannot be trusted: the message says what is missing, extra or misshapen."""


@dataclass(frozen=True, slots=True)
class RewardStatistics:
    """Mean and standard deviation of each reward on the validation pairs, to compare rewards between models."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def save(
    model: Exportable, folder: str | Path, *, weights: Weights = "merged", calibration: RewardStatistics | None = None
) -> None:
    """Write an exported folder; it appears whole or not at all.

    Args:
        model: The model, trained or not; it is left as it is.
        folder: Where to write; an older export there is replaced.
        weights: "merged" writes the whole backbone, "adapter" only what was trained, to go with the same backbone.
        calibration: Statistics of the rewards.

    Raises:
        ValueError: If the folder holds something else than an export; if "adapter" is asked of a model that has none,
            or that went on from an exported folder.
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
    """Load an exported folder or hub id, in float32, adapters merged.

    Args:
        folder: The folder, or where it lies on the hub.
        build: Makes the model of its processor and its transformers model.

    Raises:
        ExportError: If anything is missing, extra or of another shape; no tensor is ever left at random values.
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
    """Read and check `descore.json` of an exported folder or hub id."""
    path = _find(folder) / "descore.json"
    if not path.is_file():
        raise ExportError(f"{folder} is no exported folder: it has no descore.json")
    description: dict[str, Any] = json.loads(path.read_text())
    if description.get("format") != FORMAT:
        raise ExportError(f"{path} has format {description.get('format')!r}; this version reads format {FORMAT}")
    return description


def digest(folder: str | Path) -> str:
    """Hash every file of an exported folder or hub id, names and bytes: two models with one digest are the same."""
    folder = _find(folder)
    whole_folder = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
        whole_folder.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return whole_folder.hexdigest()


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and ((folder / "descore.json").is_file() or not any(folder.iterdir()))):
        raise ValueError(f"{folder} exists and is no exported folder; expected a new name, or an export to replace")


def _find(folder: str | Path) -> Path:
    if (path := complete_path(Path(folder))).is_dir():
        return path
    if not is_hub_id(str(folder)):
        raise ExportError(
            f"{folder} is neither an existing folder nor a hub id such as owner/name; a run of "
            "either stage leaves one under export/last"
        )
    try:
        return download(str(folder))
    except ValueError as error:
        raise ExportError(f"{error}; a run of either stage leaves an exported folder under export/last") from error


def _save_metadata(model: Exportable, folder: Path) -> None:
    backbone = model.processor.backbone
    backbone.config.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    statistics = {"image_mean": backbone.image_mean, "image_std": backbone.image_std}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2) + "\n")


def _check_adapter(model: Exportable) -> None:
    if not isinstance(model.network, PeftModel):
        raise ValueError('weights="adapter" needs a model with an adapter; use weights="merged"')
    if model.processor.backbone.exported:
        raise ValueError(
            'this model went on from an exported folder, and weights="adapter" would leave out what that one learned '
            f'beyond {model.processor.settings.backbone}; use weights="merged"'
        )


def _load_merged(folder: Path) -> Any:
    network, found = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True
    )
    problems = {kind: found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if found[kind]}
    if problems:
        raise ExportError(f"{folder} does not hold the weights its configuration asks for: {problems}")
    return network


def _load_adapter(processor: Processor, folder: Path) -> Any:
    path = folder / "adapter_model.safetensors"
    found = _shapes(path)
    wrapped = PeftModel(processor.backbone.load_weights(), PeftConfig.from_pretrained(str(folder)))
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    _compare(path, found, {name: list(tensor.shape) for name, tensor in state.items()})
    set_peft_model_state_dict(wrapped, load_file(path))
    return wrapped.merge_and_unload()


def _read_tensors(folder: Path, expected: dict[str, list[int]]) -> dict[str, Tensor]:
    path = folder / "reward.safetensors"
    _compare(folder, _shapes(path), expected)
    return load_file(path)


def _shapes(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        raise ExportError(f"{path} is missing")
    with safe_open(path, framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _compare(where: Path, found: dict[str, list[int]], expected: dict[str, list[int]]) -> None:
    """Raise unless both hold the same names with the same shapes."""
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
    """Put head, query rows and fully trained parts where they belong; every tensor must fit."""
    parameters = {f"network.{name}": parameter for name, parameter in model.base.named_parameters()}
    parameters["head.weight"] = model.head.weight
    embedding = model.base.get_input_embeddings().weight
    expected = {"query.weight": [len(model.processor.query_ids), embedding.shape[1]]}
    expected |= {name: list(parameters[name].shape) for name in {*tensors, "head.weight"} if name in parameters}
    _compare(Path("reward.safetensors"), {name: list(tensor.shape) for name, tensor in tensors.items()}, expected)
    with torch.no_grad():
        embedding[model.processor.query_ids] = tensors.pop("query.weight")
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
