"""Refuses a language model with a layer that the packed forward does not know: its rewards would be wrong silently."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from descore.families.family import Family
from descore.types import ModelError

KNOWN_PACKAGES = ("transformers.models.", "descore.families.")
"""Where the classes that a family names are defined; one of the same name from elsewhere is another class."""


def check_layers(network: PreTrainedModel, family: Family) -> None:
    """Check that every layer of the language model is of a kind that is right in a packed row of branches.

    In a packed row a token sees its prefix and its own branch, and only attention that transformers calls through its
    interface is told so. A layer that mixes tokens in any other way would mix the branches.

    Args:
        network: The transformers model, on any device; nothing is computed.
        family: Family of the model, which names the classes and kinds of layers that are known to be right.

    Raises:
        ModelError: If a layer is of another kind, or it or a part of it is of another class.
    """
    kinds = getattr(network.config.get_text_config(), "layer_types", None) or ()
    name = network.config.model_type
    if unknown := sorted(set(kinds) - family.layer_kinds):
        raise ModelError(
            f"the {name} backbone has layers of the kind {', '.join(unknown)}, for which branches of one prefix would "
            f"be wrong; expected {', '.join(sorted(family.layer_kinds))} only"
        )
    for place, module in _parts(network.get_submodule(f"model.{family.language}"), family.language):
        kind = type(module)
        if kind.__name__ not in family.modules or not kind.__module__.startswith(KNOWN_PACKAGES):
            raise ModelError(
                f"the {name} backbone has {kind.__module__}.{kind.__name__} at {place}, for which branches of one "
                f"prefix may be wrong; expected one of {', '.join(sorted(family.modules))}"
            )


def _parts(language: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield a language model, its layers and what they consist of, by name."""
    yield name, language
    layers: nn.ModuleList = language.get_submodule("layers")  # type: ignore[assignment]
    for index, layer in enumerate(layers):
        yield f"{name}.layers.{index}", layer
        for part, module in layer.named_children():
            yield f"{name}.layers.{index}.{part}", module
