"""A settings file: how a model of any backbone, which nobody trained here, is asked and read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from descore.inputs.checklist import read_checklist
from descore.inputs.prompts import PLACEHOLDER, PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.inputs.typed_json import FileError, in_one_line, shorten

SUFFIXES = (".yaml", ".yml", ".json")


def is_settings_file(path: str | Path) -> bool:
    """Return whether a path is that of a settings file: an existing file that ends in .yaml, .yml or .json."""
    try:
        return Path(path).suffix.lower() in SUFFIXES and Path(path).is_file()
    except OSError:  # a name that is too long
        return False


def read_settings(path: str | Path) -> ModelSettings:
    """Read a settings file: the "settings" of `descore.json`, in YAML or JSON, for a model as it was published.

    `template` is the text of the instruction, or the name or path of one; `checklist` may be the name or path of one.
    Paths are relative to the folder of the settings file, or else to the working directory.

    Raises:
        FileError: If the file cannot be read, a name or a value is wrong, or the reward is that of a head, which only a
            trained model has.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise FileError(f"{path} cannot be read as YAML or JSON: {in_one_line(error)}") from error
    if not isinstance(values, dict):
        raise FileError(f"{path}: expected settings such as backbone and template, got {shorten(values)}")
    try:
        settings = ModelSettings.from_json(_resolved(path.parent, values))
    except (ValueError, OSError) as error:
        raise FileError(f"{path}: {error}") from error
    if settings.reward_from == "head":
        raise FileError(
            f"{path}: a model that was not trained has no head; expected reward_from overall_score, expected_score, "
            "top_share or checklist"
        )
    return settings


def _resolved(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the contents of the files that they name."""
    template, checklist = values.get("template"), values.get("checklist")
    read: dict[str, Any] = {}
    if isinstance(template, str) and PLACEHOLDER not in template:
        read["template"] = PromptTemplate.read(_beside(folder, template)).text
    if isinstance(checklist, str):
        read["checklist"] = [asdict(question) for question in read_checklist(_beside(folder, checklist))]
    return values | read


def _beside(folder: Path, name: str) -> Path | str:
    return path if (path := folder / name).is_file() else name
