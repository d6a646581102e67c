"""What training changed, as plain tensors for the export: merged adapters, query rows, parts trained in full."""

from __future__ import annotations

from typing import Any, Protocol, cast

from torch import Tensor

from descore.inputs.processor import Processor


class Exportable(Protocol):
    """The parts of a reward model that an export is made from.

    Attributes:
        processor: Processor with the model's settings and backbone.
        network: The transformers model, or PEFT's wrapper around it.
        head: Reward head.
    """

    processor: Processor
    network: Any
    head: Any

    @property
    def base(self) -> Any:
        """The transformers model without PEFT's wrapper."""


def query_rows(model: Exportable) -> Tensor:
    """Return the embedding rows of the query tokens, `[Q, hidden]`, as trained where they train."""
    for name, parameter in model.network.named_parameters():
        if "trainable_tokens_delta" in name:
            return cast("Tensor", parameter.detach())
    embedding: Tensor = model.base.get_input_embeddings().weight
    return embedding[model.processor.query_ids].detach()


def merged_state(model: Exportable) -> dict[str, Tensor]:
    """Return the state of the plain transformers model, with adapters added to their layers.

    The model itself is not changed. With tied embeddings, `lm_head` gets the query rows too.
    """
    state = {
        _plain_name(name): tensor.detach() for name, tensor in model.base.state_dict().items() if not _is_adapter(name)
    }
    for name, module in model.base.named_modules():
        if hasattr(module, "lora_A"):
            for adapter in module.active_adapters:
                state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight(adapter).detach()
    for name in [name for name in state if name.endswith("embed_tokens.weight")]:
        rows = state[name].clone()
        rows[model.processor.query_ids] = query_rows(model).to(rows.dtype)
        state[name] = rows
        if model.base.config.tie_word_embeddings:
            state["lm_head.weight"] = rows
    return state


def trained_in_full(model: Exportable) -> dict[str, Tensor]:
    """Return the backbone's parameters that train directly, by name: those of no adapter and no query row."""
    return {
        f"network.{_plain_name(name)}": parameter
        for name, parameter in model.base.named_parameters()
        if parameter.requires_grad and not _is_adapter(name)
    }


def has_adapter(model: Exportable) -> bool:
    """Return whether PEFT trains part of the model: LoRA adapters or query rows."""
    return any(_is_adapter(name) for name, _ in model.base.named_parameters())


def _is_adapter(name: str) -> bool:
    return "lora_" in name or "trainable_tokens" in name


def _plain_name(name: str) -> str:
    """Return the name that a tensor has without PEFT's wrappers.

    >>> _plain_name("layers.0.mlp.up_proj.base_layer.weight")
    'layers.0.mlp.up_proj.weight'
    """
    return name.replace(".token_adapter", "").replace(".base_layer", "")
