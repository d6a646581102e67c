"""Reading an exported adapter: only what this project writes, so that no file chooses code, sizes or a backbone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model_state_dict, set_peft_model_state_dict

from descore.inputs.processor import Processor
from descore.inputs.tensor_files import check_shapes, load_finite, read_headers, reading
from descore.inputs.typed_json import FileError, read_json, shorten, typed

_NO_MATTER = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"}


def load_adapter(processor: Processor, folder: Path) -> Any:
    """Load the backbone of a model, and merge an adapter in PEFT's format into it.

    Raises:
        FileError: If a file is missing or damaged, the adapter is of another kind than this project writes, or a tensor
            is missing, extra, not finite, or of another shape.
    """
    path = folder / "adapter_model.safetensors"
    headers = read_headers(path)
    sizes = [header.shape for name, header in headers.items() if "lora_A" in name]
    ranks = {shape[0] for shape in sizes if shape and 0 not in shape}  # one without numbers proves nothing
    config = _read_config(folder / "adapter_config.json", processor.query_ids, ranks)
    network = processor.backbone.load_weights()
    with reading(folder / "adapter_config.json"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # PEFT reads it
        wrapped = PeftModel(network, config)
        state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    check_shapes(path, headers, {name: list(tensor.shape) for name, tensor in state.items()})
    with reading(path):
        set_peft_model_state_dict(wrapped, load_finite(path))
    return wrapped.merge_and_unload()


def _read_config(path: Path, query_ids: list[int], ranks: set[int]) -> LoraConfig | TrainableTokensConfig:
    """Read PEFT's configuration, and refuse every value that this project would not write."""
    content = read_json(path)

    def read(key: str, kind: Any) -> Any:
        try:
            return typed(kind, content.get(key), key)
        except ValueError as error:
            raise FileError(f"{path}: {error}") from error

    if content.get("peft_type") == "TRAINABLE_TOKENS":
        config = TrainableTokensConfig(token_indices=query_ids, target_modules=["embed_tokens"])
    else:
        tokens = {"embed_tokens": query_ids} if content.get("trainable_token_indices") else None
        rank, alpha, targets = read("r", int), read("lora_alpha", int), read("target_modules", list[str])
        if rank not in ranks:
            raise FileError(f"{path}: r is {rank}, but the tensors have rank {', '.join(map(str, sorted(ranks)))}")
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, trainable_token_indices=tokens)
    expected = config.to_dict()
    for key in content.keys() - _NO_MATTER:
        value, written = content[key], expected.get(key)
        if isinstance(written, set):
            value, written = sorted(value), sorted(written)
        if (value or written) and value != written:
            raise FileError(f"{path}: expected {shorten(written)} for {key}, got {shorten(value)}")
    return config
