"""The plain way, as the published code has it: one full sequence per thought through transformers' own forward.

The oracle of the parity tests and the other side of the benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from descore.families.patches import grids_of_pictures
from descore.model.reward_model import RewardModel
from descore.types import Prefix, Thought

SECONDS = 1.0
"""Seconds between two temporal patches, by which Qwen2.5-VL spaces its positions; examples are made to fit."""


def stock(model: RewardModel) -> RewardModel:
    """Copy a model, and give the copy transformers' own attention."""
    copy = deepcopy(model)
    use_stock_attention(copy)
    return copy


def use_stock_attention(model: RewardModel) -> None:
    """Give a model transformers' own attention, in language model and vision tower."""
    for config in (model.base.config.get_text_config(), model.base.config.vision_config):
        config._attn_implementation = "sdpa"


@contextmanager
def stock_attention(model: RewardModel) -> Iterator[None]:
    """Give a model transformers' own attention for a while; gradient checkpointing must be off meanwhile."""
    configs = (model.base.config.get_text_config(), model.base.config.vision_config)
    ours = [config._attn_implementation for config in configs]
    use_stock_attention(model)
    try:
        yield
    finally:
        for config, name in zip(configs, ours, strict=True):
            config._attn_implementation = name


def inputs_of(model: RewardModel, prefix: Prefix, tail: list[int]) -> dict[str, Tensor]:
    """What transformers' own forward and generate take; positions are left to them."""
    device = model.head.weight.device
    input_ids = torch.cat([prefix.input_ids, torch.tensor(tail, dtype=torch.int64)])[None].to(device)
    family = model.processor.family
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    pixels = model.processor.normalise(prefix.patches.to(device))
    if family.position_rows == 1:  # frames are square pictures
        side = round((pixels.shape[1] / 3) ** 0.5)
        pictures = pixels.view(-1, 3, side, side)
        return inputs | {"pixel_values": pictures[None] if model.base.config.model_type == "smolvlm" else pictures}
    is_medium, grids = (input_ids == family.placeholder_id).int(), prefix.grids.to(device)
    if family.loose:
        pictures = {"pixel_values": pixels, "image_grid_thw": grids_of_pictures(grids)}
        return inputs | pictures | {"mm_token_type_ids": is_medium}
    inputs |= {
        "mm_token_type_ids": is_medium * 2,
        "pixel_values_videos": pixels,
        "video_grid_thw": grids,
    }
    if model.base.config.model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([SECONDS] * len(prefix.grids), device=device)
    return inputs


def plain_sequence(model: RewardModel, prefix: Prefix, thought: Thought, **options: Any) -> tuple[Tensor, Tensor]:
    """Score `[prefix | thought <Reward>]` on a model with stock attention; the head may read other places too.

    Args:
        model: A model with transformers' own attention; see `stock`.
        prefix: One video with its prompt.
        thought: `Thought()` for none.
        **options: Of transformers' forward, such as `logits_to_keep`; without it all logits are kept, as published.

    Returns:
        Rewards `[K]`, and logits `[P + R + Q, vocabulary]` of a sequence with P prefix, R thought and Q query tokens.
    """
    appended = model.processor.appended_ids
    with _last_states(model) as states:
        output = model.base(**inputs_of(model, prefix, [*thought.token_ids, *appended]), use_cache=False, **options)
    places = list(prefix.query_index or range(-(len(appended) or 1), 0))
    return model.head(states[0][:, places])[0], output.logits[0]


def plain_forward(model: RewardModel, prefix: Prefix, thought: Thought) -> tuple[Tensor, Tensor]:
    """Reward [K] of one thought and log-probabilities [M] of its tokens, on a model with stock attention."""
    processor = model.processor
    reward, logits = plain_sequence(model, prefix, thought)
    token_ids = [*thought.token_ids, *[processor.end_id] * thought.closed]
    targets = torch.tensor(token_ids, dtype=torch.int64, device=logits.device)
    logits = logits[len(prefix.input_ids) - 1 :][: len(targets)].clone()
    logits[:, processor.forbidden_ids] = -torch.inf
    return reward, logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@contextmanager
def _last_states(model: RewardModel) -> Iterator[list[Tensor]]:
    """Collect what the language model's final norm gives, `[1, L, hidden]` a call."""
    states: list[Tensor] = []

    def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states.append(output)

    handle = model.base.get_submodule(f"model.{model.processor.family.language}.norm").register_forward_hook(collect)
    try:
        yield states
    finally:
        handle.remove()
