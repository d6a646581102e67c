"""A transformers model from its configuration and safetensors, which are compared before anything is built.

transformers opens no weights here: a configuration, an index or an adapter in the folder can send it nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging

from descore.families import family_of
from descore.inputs.tensor_files import Header, read_headers, reading, weight_files
from descore.inputs.typed_json import FileError, read_json

ATTENTION = "sdpa"
"""Attention that a model is built with; for one that a configuration names, transformers would ask the hub."""

REFUSED = ("quantization_config", "fusion_config", "per_layer_config")
"""Keys of a configuration that change how transformers builds the model."""


def load_network(folder: Path, *, exact: bool = True) -> PreTrainedModel:
    """Load a model in float32 from a folder in transformers' format.

    Args:
        folder: Folder with config.json and the weights.
        exact: Whether a tensor that the model has no place for is refused.

    Raises:
        FileError: If the configuration does not fit the weights, or a tensor is missing or of another shape; no tensor
            is ever left at random values.
    """
    config = read_config(folder)
    with ExitStack() as stack:
        headers: dict[str, Header] = {}
        state: dict[str, Any] = {}
        for path in weight_files(folder):
            headers |= read_headers(path)
            with reading(path):
                file = stack.enter_context(safe_open(path, framework="pt"))
                state |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        _check_sizes(folder, config, headers)
        return network_of(config, state, folder, exact=exact)


def network_of(config: PreTrainedConfig, state: Mapping[str, Any], folder: Path, *, exact: bool = True) -> Any:
    """Build a model in float32 from its tensors.

    Args:
        config: Configuration of the model.
        state: Every tensor by its name, in memory or as a slice of a file.
        folder: Folder that the weights or the configuration come from, which may hold options of generation.
        exact: Whether a tensor that the model has no place for is refused.

    Raises:
        FileError: If a tensor is missing or of another shape.
    """
    with reading(folder), _without_bar():
        network, found = _model_class(config).from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation=ATTENTION,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    kinds = ("missing_keys", "mismatched_keys", "error_msgs", *(("unexpected_keys",) if exact else ()))
    if problems := {kind: found[kind] for kind in kinds if found[kind]}:
        raise FileError(
            f"{folder} does not hold the weights that its configuration asks for: {problems}; export or download the "
            "model again"
        )
    if (folder / "generation_config.json").is_file():
        with reading(folder / "generation_config.json"):
            network.generation_config = GenerationConfig.from_pretrained(folder)
    return network


def parameter_shapes(config: PreTrainedConfig) -> dict[str, list[int]]:
    """Return the shape of every parameter that a configuration asks for, by name; a tied output layer has none."""
    with torch.device("meta"):
        network = _model_class(config)(config)
    shapes = {name: list(parameter.shape) for name, parameter in network.named_parameters()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    return shapes


@contextmanager
def _without_bar() -> Iterator[None]:
    """Keep transformers from drawing a progress bar of its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_config(folder: Path) -> PreTrainedConfig:
    """Read the configuration of a model.

    Raises:
        FileError: If it is missing, cannot be read, or asks for another way to build the model.
    """
    path = folder / "config.json"
    content = read_json(path)
    for part in (content, *(one for one in content.values() if isinstance(one, dict))):
        if refused := [key for key in REFUSED if part.get(key)]:
            raise FileError(f"{path} has a {refused[0]}, which is not supported; expected a model without")
    with reading(path):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config._attn_implementation = ATTENTION
    return config


def _check_sizes(folder: Path, config: PreTrainedConfig, headers: Mapping[str, Header]) -> None:
    """Compare a configuration with the tensors, so that its numbers never decide how much is built or allocated."""
    path = folder / "config.json"
    with reading(path):
        family, text, vision = family_of(config), config.get_text_config(), config.vision_config
        tower = re.escape(f"{family.tower}.")
        depth = getattr(vision, family.tower_depth)
        asked = [
            ("vocab_size", text.vocab_size, _rows(headers)),
            ("num_hidden_layers", text.num_hidden_layers, _count(headers, rf"^(?!.*{tower}).*\.layers\.(\d+)\.")),
            (family.tower_depth, depth, _count(headers, rf"{tower}{re.escape(family.tower_layers)}\.(\d+)\.")),
        ]
    for name, number, found in asked:
        if number != found:
            raise FileError(f"{path}: {name} is {number}, but the weights have {found}")
    if family.position_rows == 4:
        _check_rotation(path, text)
    with reading(path), torch.device("meta"):
        if len(getattr(vision, "deepstack_visual_indexes", None) or ()) > depth:
            raise FileError(f"{path}: deepstack_visual_indexes has more entries than the {depth} vision layers")
        needed = sum(parameter.numel() for parameter in _model_class(config)(config).parameters())
    held = sum(torch.Size(header.shape).numel() for header in headers.values())
    if needed > 2 * held:  # a little less is a missing tensor, which is reported by its name
        raise FileError(f"{path} asks for {needed:,} weights, but the files beside it hold {held:,}")


def _check_rotation(path: Path, text: Any) -> None:
    """Check the numbers of M-RoPE, which no tensor shows: how many frequencies time, height and width get."""
    sections = text.rope_parameters.get("mrope_section")
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    half = int(width * text.rope_parameters.get("partial_rotary_factor", 1.0)) // 2
    if not isinstance(sections, list) or [type(one) for one in sections] != [int] * 3 or sum(sections) != half:
        raise FileError(f"{path}: expected three whole numbers that add up to {half} for mrope_section, got {sections}")


def _model_class(config: PreTrainedConfig) -> Any:
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]


def _rows(headers: Mapping[str, Header]) -> int:
    return next((header.shape[0] for name, header in headers.items() if name.endswith("embed_tokens.weight")), 0)


def _count(headers: Mapping[str, Header], pattern: str) -> int:
    return len({found[1] for name in headers if (found := re.search(pattern, name))})
