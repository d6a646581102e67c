"""`descore.json` of an exported folder: what it holds, and where the folder and its backbone are."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from descore.atomic import complete_path
from descore.inputs.backbone import TINY, download, is_hub_id
from descore.inputs.settings import ModelSettings
from descore.inputs.settings_file import is_settings_file, read_settings
from descore.inputs.typed_json import read_json, shorten, typed
from descore.model.finished import find_export
from descore.types import ModelError

FILE = "descore.json"
FORMAT = 1
Weights = Literal["merged", "adapter"]
Held = Literal["merged", "adapter", "none"]


class ExportError(ModelError):
    """An exported folder that cannot be loaded: the message has the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class RewardStatistics:
    """Statistics of each reward over the validation videos, which make rewards of different models comparable.

    Attributes:
        mean: Mean of each reward, in the order of the model's reward names.
        std: Standard deviation of each reward, in the same order.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an imported model comes from, and what was made of it.

    Attributes:
        layout: Layout of the published files, such as "videoreward".
        source: Hub id or folder of the published files.
        protocol: How the published code reads a video and its score, and what this import does otherwise.
        files: SHA-256 of each file that was read, by its name; those of the backbone begin with "backbone:".
        revision: Commit of the source; None if it is not known.
        license: License of the weights; None if it is not known.
    """

    layout: str
    source: str
    protocol: str
    files: dict[str, str]
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """Content of `descore.json`.

    Attributes:
        format: Version of the format.
        weights: "merged" for a whole backbone, "adapter" for what was trained, "none" for a settings file.
        settings: Settings of the model.
        tensors: Shape of each tensor in reward.safetensors.
        calibration: Statistics of the rewards; None where there are none.
        sums: SHA-256 of each file beside descore.json, by its path in the folder.
        origin: Where an imported model comes from; None for one that was trained here.

    Raises:
        ValueError: If the shapes or the statistics do not fit the settings.
    """

    format: int
    weights: Held
    settings: ModelSettings
    tensors: dict[str, list[int]]
    calibration: RewardStatistics | None = None
    sums: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None

    def __post_init__(self) -> None:
        names, rows = self.settings.reward_names, {} if self.weights == "none" else self._rows()
        for tensor, num_rows in rows.items():
            shape = self.tensors.get(tensor, [])
            if shape[:1] != [num_rows] or len(shape) != (1 if tensor.endswith("bias") else 2):
                raise ValueError(f"tensors: {tensor} has the shape {shape}, expected {num_rows} rows")
        if extra := [name for name in self.tensors if name.startswith(("head.", "query.")) and name not in rows]:
            raise ValueError(f"tensors: {', '.join(extra)} is extra; the settings ask for {', '.join(rows)}")
        if (found := self.calibration) and not (
            len(names) == len(found.mean) == len(found.std) and min(found.std) >= 0
        ):
            raise ValueError(f"calibration: expected a mean and a std of at least 0 for each of {list(names)}")

    def _rows(self) -> dict[str, int]:
        """Return the number of rows of every tensor of the head and of the query tokens."""
        head = self.settings.head.rows(len(self.settings.reward_names))
        rows = {f"head.{name}": count for name, count in head.items()}
        return rows | {"query.weight": count} if (count := len(self.settings.query_tokens)) else rows


def describe(folder: str | Path, backbone: str | None = None) -> Description:
    """Read `descore.json` of an exported folder or hub id, or a settings file.

    Args:
        folder: Path of the folder, or its id on the hub, or the path of a settings file.
        backbone: Backbone of an adapter, if it is not where the folder says; a hub id or folder.

    Returns:
        Content of the file. The backbone in the settings is the one given, or else a hub id or a path.

    Raises:
        ExportError: If there is no such folder, it has no valid `descore.json`, its format is of another version, its
            backbone is not there, or it needs none.
    """
    folder = find(folder)
    if is_settings_file(folder):
        return _untrained(folder, backbone)
    path = folder / FILE
    if not path.is_file():
        raise ExportError(f"{folder} is not an exported folder: it has no {FILE}")
    try:
        content = read_json(path)
        if type(content.get("format")) is not int or content["format"] != FORMAT:
            raise ExportError(f"{path} has format {shorten(content.get('format'))}; this version reads format {FORMAT}")
        if content.get("weights") == "none":
            raise ExportError(f'{path}: weights: expected one of {", ".join(get_args(Weights))}, got "none"')
        description = typed(Description, content, "")
    except ExportError:
        raise
    except ValueError as error:
        raise ExportError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    located = _locate(folder, description, backbone)
    return replace(description, settings=replace(description.settings, backbone=located))


def find(folder: str | Path) -> Path:
    """Return the path of an exported folder, a run's newest finished one, a downloaded hub id, or a settings file.

    Raises:
        ExportError: If there is none.
    """
    if is_settings_file(folder):
        return Path(folder)
    try:
        if (path := complete_path(find_export(folder))).is_dir():
            return path
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise ExportError(f"{shorten(str(folder), quote=False)} cannot be read: {error.strerror}") from error
    if not is_hub_id(str(folder)):
        raise ExportError(
            f"{folder} is neither an existing folder nor a hub id such as owner/name; a run of either stage writes its "
            "exported folder to export/last"
        )
    try:
        return download(str(folder))
    except ValueError as error:
        raise ExportError(f"{error}; a run of either stage writes its exported folder to export/last") from error


def portable(name: str, folder: Path) -> str:
    """Return the name that an export gives its backbone: a hub id or "tiny" as it is, a folder relative to the export.

    >>> portable("Qwen/Qwen3-VL-8B-Instruct", Path("runs/export"))
    'Qwen/Qwen3-VL-8B-Instruct'
    >>> portable(".", Path("runs/export"))
    '../..'
    """
    if name == TINY or not os.path.isdir(name):
        return name
    relative = os.path.relpath(os.path.abspath(name), folder.resolve())
    return relative if relative.startswith("..") else f"./{relative}"


def _untrained(path: Path, backbone: str | None) -> Description:
    settings = read_settings(path)
    name = backbone or settings.backbone
    if name != TINY and not os.path.isdir(name) and not is_hub_id(name):
        raise ExportError(f"{path}: expected a backbone that is a hub id, a folder or {TINY}, got {name!r}")
    return Description(FORMAT, "none", replace(settings, backbone=name), tensors={})


def _locate(folder: Path, description: Description, backbone: str | None) -> str:
    """Return the name of the backbone as seen from the working directory."""
    if description.weights == "merged":
        if backbone is not None:
            raise ExportError(
                f"{folder} holds its whole backbone, and another one is named, {backbone}: leave --backbone out"
            )
        return _from_folder(folder, description.settings.backbone)
    name = backbone if backbone is not None else _from_folder(folder, description.settings.backbone)
    if name != TINY and not os.path.isdir(name) and not is_hub_id(name):
        raise ExportError(
            f"{folder} holds an adapter, and its backbone is not at {name}: name it with --backbone FOLDER_OR_HUB_ID "
            "(--model.backbone in stage 2, backbone=... in Python)"
        )
    return name


def _from_folder(folder: Path, name: str) -> str:
    relative = name in {".", ".."} or name.startswith(("./", "../"))
    return os.path.normpath(folder.resolve() / name) if relative else name


def to_json(description: Description) -> dict[str, Any]:
    """Return a description as plain values for JSON."""
    calibration = description.calibration
    return {
        "format": description.format,
        "weights": description.weights,
        "settings": description.settings.to_json(),
        "calibration": calibration and {"mean": calibration.mean, "std": calibration.std},
        "tensors": description.tensors,
        "sums": description.sums,
        "origin": description.origin and asdict(description.origin),
    }
