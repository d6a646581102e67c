"""The plain way, as the published code has it: one full sequence per branch through transformers' own forward.

The oracle of the parity tests and the other side of the benchmarks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from descore.model import RewardModel
from descore.types import Prefix, Thought


def plain_sequence(
    model: RewardModel,
    prefix: Prefix,
    thought: Thought,
    *,
    second_per_grid: float | None = None,
    logits_to_keep: int = 0,
) -> tuple[Tensor, Tensor]:
    """Score `[prefix | thought <Reward>]`: the family's own positions, stock SDPA, logits of the whole vocabulary.

    The backward pass may come later, as long as gradient checkpointing is off: it would recompute the activations with
    the attention that the model has by then. Wrap both in `stock_attention` when it is on.

    Args:
        model: Its head gives the reward.
        prefix: One video with its prompt.
        thought: `Thought()` for none.
        second_per_grid: Seconds between two temporal patches; Qwen2.5-VL spaces its positions by them.
        logits_to_keep: Only the logits of so many last positions; 0 keeps all, as the published code does.

    Returns:
        Rewards `[K]`, and logits `[P + R + Q, vocabulary]` of a sequence with P prefix, R thought and Q query tokens.
    """
    query_ids = model.features.query_ids
    device = model.head.weight.device
    input_ids = torch.cat([prefix.input_ids, torch.tensor([*thought.token_ids, *query_ids])])[None].to(device)
    kinds = (input_ids == model.base.config.video_token_id).int() * 2
    options = {} if second_per_grid is None else {"second_per_grid_ts": torch.tensor([second_per_grid], device=device)}
    with stock_attention(model), _last_states(model) as states:
        output = model.base(
            input_ids=input_ids,
            mm_token_type_ids=kinds,
            pixel_values_videos=prefix.patches.to(device),
            video_grid_thw=prefix.grid[None].to(device),
            logits_to_keep=logits_to_keep,
            use_cache=False,
            **options,
        )
    return model.head(states[0][:, -len(query_ids) :])[0], output.logits[0]


@contextmanager
def stock_attention(model: RewardModel) -> Iterator[None]:
    """Give the backbone transformers' own SDPA for a while, in language model and vision tower."""
    configs = (model.base.config.get_text_config(), model.base.config.vision_config)
    ours = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        for config, name in zip(configs, ours, strict=True):
            config._attn_implementation = name


@contextmanager
def _last_states(model: RewardModel) -> Iterator[list[Tensor]]:
    """Collect what the language model's final norm gives, `[1, L, hidden]` a call."""
    states: list[Tensor] = []
    norm = model.base.get_submodule("model.language_model.norm")

    def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states.append(output)

    handle = norm.register_forward_hook(collect)
    try:
        yield states
    finally:
        handle.remove()
