"""Trainable parts of a reward model: which parameters belong to a part, and how it trains, in full or by LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from torch import nn

from descore.families import FAMILIES
from descore.model.reward_model import RewardModel

Part = Literal["embedding", "language", "vision", "merger", "query", "head"]
PARTS: tuple[Part, ...] = get_args(Part)

TOWERS = frozenset(family.tower for family in FAMILIES.values())
MERGERS = frozenset(family.merger for family in FAMILIES.values())


def part_of(name: str) -> Part:
    """Return the part that a parameter or module of a `RewardModel` belongs to, by its name.

    >>> part_of("network.model.visual.merger.norm.weight")
    'merger'
    >>> part_of("network.model.language_model.layers.0.mlp.up_proj.weight")
    'language'
    """
    if name.startswith("head."):
        return "head"
    if "trainable_tokens" in name:
        return "query"
    if "embed_tokens" in name:
        return "embedding"
    if any(merger in name for merger in MERGERS):
        return "merger"
    return "vision" if TOWERS & set(name.split(".")) else "language"


def make_trainable(
    model: RewardModel,
    parts: Sequence[Part],
    *,
    lora_parts: Sequence[Part] = (),
    lora_rank: int = 0,
    lora_alpha: int = 0,
) -> None:
    """Choose the parts of a model that train, and freeze everything else, in place.

    The part "query" trains only the embedding rows of the query tokens, through PEFT's trainable tokens; "embedding"
    trains the whole embedding.

    Args:
        model: Model whose network PEFT has not wrapped yet.
        parts: Parts that train.
        lora_parts: Parts among `parts` that train through LoRA adapters on their linear layers instead of in full.
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of the adapters; their output is multiplied by `lora_alpha / lora_rank`.

    Raises:
        ValueError: If a part is unknown, LoRA is requested for a part that does not train or without rank and alpha,
            query and embedding are to train together, or query is to train and the model has no query token.
    """
    check_parts(parts, lora_parts, lora_rank, lora_alpha)
    model.requires_grad_(False)
    tokens = model.processor.query_ids if "query" in parts else None
    if tokens == []:
        raise ValueError(
            "head.query is last, so there is no query token to train: leave query out of the parts, "
            "--model.optimization.learning_rates.query 0"
        )
    if lora_parts:
        config = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha,
            target_modules=_linears(model, lora_parts),
            trainable_token_indices={"embed_tokens": tokens} if tokens else None,
        )
        model.network = get_peft_model(model.base, config)
    elif tokens:
        config = TrainableTokensConfig(token_indices=tokens, target_modules=["embed_tokens"])
        model.network = get_peft_model(model.base, config)
    in_full = set(parts) - set(lora_parts)
    for name, parameter in model.named_parameters():
        if part_of(name) in in_full:
            parameter.requires_grad_(True)


def trainable(model: RewardModel) -> Mapping[Part, list[nn.Parameter]]:
    """Return the parameters that train, by part; a part without any is left out."""
    groups: dict[Part, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name)].append(parameter)
    return {part: parameters for part, parameters in groups.items() if parameters}


def _linears(model: RewardModel, parts: Sequence[Part]) -> list[str]:
    """Return the names of the linear layers of some parts, LoRA's targets; lm_head is never among them."""
    return [
        name
        for name, module in model.base.named_modules()
        if isinstance(module, nn.Linear) and part_of(name) in parts and "lm_head" not in name
    ]


def check_parts(parts: Sequence[Part], lora_parts: Sequence[Part], lora_rank: int, lora_alpha: int) -> None:
    """Check the arguments of `make_trainable`, before a model is loaded.

    Raises:
        ValueError: As `make_trainable` does.

    >>> check_parts(["language", "query", "head"], ["vision"], 8, 16)
    Traceback (most recent call last):
    ...
    ValueError: LoRA is asked for on vision; expected parts that train, out of language, vision, merger
    """
    if unknown := sorted({*parts, *lora_parts} - set(PARTS)):
        raise ValueError(f"unknown parts {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    if {"query", "embedding"} <= set(parts):
        raise ValueError("the query token is a row of the embedding: train one of query and embedding, not both")
    allowed = {"language", "vision", "merger"} & set(parts)
    if wrong := sorted(set(lora_parts) - allowed):
        raise ValueError(
            f"LoRA is asked for on {', '.join(wrong)}; expected parts that train, out of language, vision, merger"
        )
    if lora_parts and min(lora_rank, lora_alpha) < 1:
        raise ValueError(
            f"lora_rank is {lora_rank} and lora_alpha {lora_alpha}; expected at least 1 for LoRA on "
            f"{', '.join(lora_parts)}"
        )
