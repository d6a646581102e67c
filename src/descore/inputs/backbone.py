"""Backbones: the supported families of transformers models, and reading a backbone's files, with or without weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from descore.families import FAMILIES, Family, family_of
from descore.inputs.network import load_network, read_config
from descore.inputs.pixel_statistics import read_pixel_statistics
from descore.inputs.tensor_files import reading
from descore.inputs.typed_json import FileError, read_json

TINY = "tiny"
"""Name of the backbone that is part of the package."""

_METADATA = ("*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True)
class Backbone:
    """Configuration, tokenizer and pixel statistics of a backbone, without its weights.

    Attributes:
        name: Hub id or folder of the backbone, or "tiny".
        folder: Folder that the files were read from.
        config: Configuration of the transformers model.
        tokenizer: Tokenizer, with the query tokens added.
        image_mean: Mean of each colour channel, for pixel normalisation.
        image_std: Standard deviation of each colour channel, for pixel normalisation.
        exported: Whether the files are those of an exported folder, whose weights differ from the backbone's.
        loose: Whether each frame of a video is shown as a picture of its own, instead of all as a video.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: Any
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    exported: bool
    loose: bool = False

    @classmethod
    def read(
        cls,
        name: str,
        query_tokens: Sequence[str] = ("<Reward>",),
        folder: Path | None = None,
        *,
        loose: bool = False,
    ) -> Backbone:
        """Read configuration, tokenizer and pixel statistics.

        Args:
            name: Hub id or folder of the backbone, or "tiny".
            query_tokens: Query tokens to add to the tokenizer.
            folder: Exported folder to read the files from; None reads them from the backbone itself.
            loose: Whether each frame of a video is shown as a picture of its own, instead of all as a video.

        Raises:
            FileError: If a file is missing or damaged.
            ValueError: If the backbone cannot be found, or its family is not supported.

        >>> Backbone.read("tiny").config.model_type
        'qwen3_vl'
        """
        exported, folder = folder is not None, folder or resolve(name, metadata_only=True)
        config = read_config(folder)
        if config.model_type not in FAMILIES:
            raise ValueError(
                f"backbone {name!r} is of the family {config.model_type!r}, which descore.families does not have; "
                f"supported are {', '.join(FAMILIES)}"
            )
        tokenizer = _read_tokenizer(folder, family_of(config, loose=loose), query_tokens)
        statistics = read_pixel_statistics(folder)
        return cls(name, folder, config, tokenizer, statistics.mean, statistics.std, exported, loose)

    @property
    def family(self) -> Family:
        """Family of the backbone, bound to its configuration."""
        return family_of(self.config, loose=self.loose)

    def load_weights(self) -> PreTrainedModel:
        """Load the backbone with its weights in float32; embeddings are added if the tokenizer has more tokens.

        Raises:
            FileError: If the weights are damaged, or do not fit the configuration.
            ValueError: If the backbone cannot be found.
        """
        model = load_network(resolve(self.name, metadata_only=False), exact=False)
        model.name_or_path = self.name
        if len(self.tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(self.tokenizer))
        return model


def resolve(name: str, *, metadata_only: bool) -> Path:
    """Return the folder of a backbone, and download it first if its name is a hub id.

    Args:
        name: Hub id or folder of the backbone, or "tiny" for the one in the package.
        metadata_only: Whether to download everything except the weights.

    Raises:
        ValueError: If the name is none of these, or the download fails.
    """
    if name == TINY:
        return Path(str(files("descore") / TINY))
    if os.path.isdir(name):
        return Path(name)
    if not is_hub_id(name):
        raise ValueError(
            f"backbone {name!r} is neither {TINY!r}, an existing folder, nor a hub id such as Qwen/Qwen3-VL-8B-Instruct"
        )
    weights = () if metadata_only else ("*.safetensors",)
    return download(name, [*_METADATA, *weights])


def download(name: str, patterns: list[str] | None = None, revision: str | None = None) -> Path:
    """Download a repository from the hub, or find an earlier download, and return its folder.

    Args:
        name: Hub id, such as `Qwen/Qwen3-VL-8B-Instruct`.
        patterns: Patterns of the files to download; None for all.
        revision: Commit, branch or tag; the newest commit of the main branch if not given.

    Raises:
        ValueError: If the hub has no such repository, or cannot be reached and nothing was downloaded before.
    """
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} is not a local folder, and could not be downloaded from the hub: {reason}") from error


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a hub id.

    >>> is_hub_id("Qwen/Qwen3-VL-8B-Instruct"), is_hub_id("./folder"), is_hub_id("tiny")
    (True, False, False)
    """
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _read_tokenizer(folder: Path, family: Family, query_tokens: Sequence[str]) -> Any:
    """Read a tokenizer, check it against the configuration, and add the query tokens."""
    for path in folder.glob("tokenizer*.json"):
        read_json(path)
    path = folder / "tokenizer*.json"
    with reading(path):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        added = {"additional_special_tokens": list(query_tokens)}
        tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
        tokenizer.decode(tokenizer.encode("text", add_special_tokens=False))
        tokenizer.chat_template = family.chat_template or tokenizer.chat_template
        vocabulary, num_rows = tokenizer.get_vocab(), max(family.config.get_text_config().vocab_size, len(tokenizer))
        placeholder_id = family.placeholder_id
    if missing := [token for token in (*family.control_tokens, family.placeholder) if token not in vocabulary]:
        raise FileError(f"{path} has no {', '.join(missing)}: expected the tokenizer of a vision-language model")
    if (largest := max(vocabulary.values())) >= num_rows:
        raise FileError(f"{path} has the token id {largest}, but there are {num_rows} tokens")
    if (expected := vocabulary[family.placeholder]) != placeholder_id:
        raise FileError(f"{folder / 'config.json'}: {family.medium.key} is {placeholder_id}; {path} has {expected}")
    return tokenizer
