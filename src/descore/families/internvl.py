"""InternVL3 and InternVL3.5: each frame is a square picture on a line of its own, after its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from descore.families.family import Medium
from descore.families.pictures import PictureFamily
from descore.types import Frames, VideoFeatures


class InternVL(PictureFamily):
    """InternVL3 and InternVL3.5 in transformers' own format, on Qwen2, Qwen3 or Qwen3-MoE."""

    video = Medium("<video>", "<IMG_CONTEXT>", "image_token_id")
    picture = Medium("<IMG_CONTEXT>", "<IMG_CONTEXT>", "image_token_id")
    control_tokens = ("<img>", "<IMG_CONTEXT>", "</img>", "<|im_end|>")
    tower = "vision_tower"
    tower_layers = "encoder.layer"
    merger = "multi_modal_projector"
    modules = frozenset({
        *("Qwen2Model", "Qwen2DecoderLayer", "Qwen2Attention", "Qwen2MLP", "Qwen2RMSNorm"),
        *("Qwen3Model", "Qwen3DecoderLayer", "Qwen3Attention", "Qwen3MLP", "Qwen3RMSNorm"),
        *("Qwen3MoeModel", "Qwen3MoeDecoderLayer", "Qwen3MoeAttention", "Qwen3MoeSparseMoeBlock"),
        *("Qwen3MoeMLP", "Qwen3MoeRMSNorm"),
    })

    @property
    def merge(self) -> int:
        """Number of patches along one side that become one token."""
        return round(1 / float(self.config.downsample_ratio))

    def video_text(self, frames: Frames, grid: Tensor) -> str:
        """Return a numbered line for each frame."""
        picture = self.picture_text(grid)
        return "\n".join(f"Frame{index + 1}: {picture}" for index in range(int(grid[0])))

    def picture_text(self, grid: Tensor) -> str:
        """Return the block of a picture of one tile."""
        _, rows, columns = self.token_shape(grid)
        return f"<img>{self.placeholder * (rows * columns)}</img>"

    def features(self, backbone: Any, frames: Tensor) -> Tensor:
        """Return the features of frames, [N, tokens, hidden]."""
        return backbone.get_image_features(frames, return_dict=True).pooler_output  # type: ignore[no-any-return]

    def outputs(self, seen: Sequence[VideoFeatures]) -> Mapping[str, Any]:
        """Return the features as those of pictures, in one tensor."""
        return {"image": SimpleNamespace(pooler_output=torch.cat([video.main for video in seen])[None])}
