"""InternVL3 and InternVL3.5: each frame is a square picture on a line of its own, after its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from descore.families.pictures import PictureFamily
from descore.types import Frames, VideoFeatures


class InternVL(PictureFamily):
    """InternVL3 and InternVL3.5 in transformers' own format, on Qwen2, Qwen3 or Qwen3-MoE."""

    video = "<video>"
    placeholder = "<IMG_CONTEXT>"
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
        num_frames, rows, columns = self.token_shape(grid)
        picture = f"<img>{self.placeholder * (rows * columns)}</img>"
        return "\n".join(f"Frame{index + 1}: {picture}" for index in range(num_frames))

    def features(self, backbone: Any, frames: Tensor) -> Tensor:
        """Return the features of frames, [N, tokens, hidden]."""
        return backbone.get_image_features(frames, return_dict=True).pooler_output  # type: ignore[no-any-return]

    def outputs(self, seen: Sequence[VideoFeatures]) -> Mapping[str, Any]:
        """Return the features as those of pictures, in one tensor."""
        return {"image": SimpleNamespace(pooler_output=torch.cat([video.main for video in seen])[None])}
