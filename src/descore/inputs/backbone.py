"""Backbones: which families of transformers models are supported, and what is read of one before its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

TINY = "tiny"
"""Name of the backbone that ships with the package."""

_METADATA = ("*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class Family:
    """How a family lays a video out in text.

    Attributes:
        timestamps: Whether each temporal patch is a vision block of its own, led by its time in seconds.
        seconds_per_grid: Whether M-RoPE spaces temporal patches by their distance in seconds.
    """

    timestamps: bool
    seconds_per_grid: bool


FAMILIES = {
    "qwen3_vl": Family(timestamps=True, seconds_per_grid=False),
    "qwen2_5_vl": Family(timestamps=False, seconds_per_grid=True),
}


@dataclass(frozen=True)
class Backbone:
    """A backbone without its weights: what is needed to turn videos and text into its inputs.

    Attributes:
        name: Hub id, folder, or "tiny".
        folder: Where these files lie.
        config: Its transformers configuration.
        tokenizer: Its tokenizer, the query tokens added.
        image_mean: Per-channel mean the pixels are normalised with.
        image_std: Per-channel standard deviation the pixels are normalised with.
        exported: Whether these files lie in an exported folder, whose weights have gone on from the backbone's.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: Any
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    exported: bool

    @classmethod
    def read(cls, name: str, query_tokens: Sequence[str] = ("<Reward>",), folder: Path | None = None) -> Backbone:
        """Read configuration, tokenizer and pixel statistics; no weights.

        Args:
            name: Hub id, folder, or "tiny".
            query_tokens: Added to the tokenizer.
            folder: An exported folder's copy of these files, to read instead.

        Raises:
            ValueError: If the family is not supported or a file is missing.
        """
        exported, folder = folder is not None, folder or resolve(name, metadata_only=True)
        config = AutoConfig.from_pretrained(folder)
        if config.model_type not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(
                f"backbone {name!r} is of the family {config.model_type!r}; supported are {known}. To add one, say in "
                "descore.inputs.backbone.FAMILIES how it writes a video into text, and give its get_rope_index to "
                "rope_index"
            )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        added = {"additional_special_tokens": list(query_tokens)}
        tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
        statistics = _pixel_statistics(folder)
        mean, std = (tuple(statistics[key]) for key in ("image_mean", "image_std"))
        return cls(name, folder, config, tokenizer, mean, std, exported)

    @property
    def family(self) -> Family:
        """How the family lays a video out."""
        return FAMILIES[self.config.model_type]

    @property
    def rope_index(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """The family's own `get_rope_index`, callable without a model, so that workers compute positions."""
        model_class: Any = MODEL_MAPPING[type(self.config)]
        stand_in = SimpleNamespace(
            config=self.config, get_vision_position_ids=partial(model_class.get_vision_position_ids, None)
        )
        return partial(model_class.get_rope_index, stand_in)

    def load_weights(self) -> PreTrainedModel:
        """Load the weights in float32; the vocabulary is resized only if the tokenizer outgrew it."""
        folder = resolve(self.name, metadata_only=False)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        if len(self.tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(self.tokenizer))
        return model


def resolve(name: str, *, metadata_only: bool) -> Path:
    """Find the folder of a backbone: "tiny" in the package, a local folder, or a download from the hub."""
    if name == TINY:
        return Path(str(files("descore") / TINY))
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        raise ValueError(
            f"backbone {name!r} is neither {TINY!r}, an existing folder, nor a hub id such as Qwen/Qwen3-VL-8B-Instruct"
        )
    weights = () if metadata_only else ("*.safetensors",)
    return download(name, [*_METADATA, *weights])


def download(name: str, patterns: list[str] | None = None) -> Path:
    """Fetch a repository of the hub, or what was fetched of it before, and return its folder.

    Raises:
        ValueError: If the hub has none of that name, or cannot be reached.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} is no folder here, and the hub did not give a model of that id ({reason})") from error


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name` of a repository on the hub."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _pixel_statistics(folder: Path) -> dict[str, Any]:
    filenames = ("video_preprocessor_config.json", "preprocessor_config.json")
    for filename in filenames:
        if (folder / filename).is_file():
            return dict(json.loads((folder / filename).read_text()))
    raise ValueError(f"{folder} has neither {filenames[0]} nor {filenames[1]}; expected image_mean and image_std there")
