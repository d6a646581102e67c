"""The plain way: one full sequence per thought, through transformers' own attention, mask and positions."""

from copy import deepcopy

import torch
from torch import Tensor

from descore.model import RewardModel
from descore.types import Prefix, Thought

SECONDS = 1.0
"""What a pair of frames of `make_frames` covers: every fourth one of 8 a second."""


def stock(model: RewardModel) -> RewardModel:
    """Copy a model, and give the copy transformers' own attention."""
    copy = deepcopy(model)
    copy.base.config.get_text_config()._attn_implementation = "sdpa"
    copy.base.config.vision_config._attn_implementation = "sdpa"
    return copy


def inputs_of(model: RewardModel, prefix: Prefix, tail: list[int]) -> dict[str, Tensor]:
    """What transformers' own forward and generate take; positions are left to them."""
    input_ids = torch.cat([prefix.input_ids, torch.tensor(tail, dtype=torch.int64)])[None]
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == model.base.config.video_token_id).int() * 2,
        "pixel_values_videos": prefix.patches,
        "video_grid_thw": prefix.grid[None],
    }
    if model.features.backbone.family.seconds_per_grid:
        inputs["second_per_grid_ts"] = torch.tensor([SECONDS])
    return inputs


def plain_forward(model: RewardModel, prefix: Prefix, thought: Thought) -> tuple[Tensor, Tensor]:
    """Reward [K] of one thought and log-probabilities [M] of its tokens, on a `stock` model."""
    features = model.features
    tail = [*thought.token_ids, *features.query_ids]
    output = model.base(**inputs_of(model, prefix, tail), output_hidden_states=True)
    queries = output.hidden_states[-1][0, -len(features.query_ids) :]
    reward = (queries * model.head.weight).sum(-1)
    targets = torch.tensor([*thought.token_ids, *[features.end_id] * thought.closed], dtype=torch.int64)
    logits = output.logits[0, len(prefix.input_ids) - 1 :][: len(targets)].clone()
    logits[:, features.forbidden_ids] = -torch.inf
    return reward, logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
