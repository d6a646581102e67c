"""Qwen2.5-VL: as Qwen2-VL, with positions in time that count seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from descore.families.qwen2_vl import Qwen2VL
from descore.types import Frames


class Qwen2_5VL(Qwen2VL):
    """Qwen2.5-VL, whose M-RoPE spaces temporal patches by their distance in seconds."""

    modules = frozenset({
        "Qwen2_5_VLTextModel",
        "Qwen2_5_VLDecoderLayer",
        "Qwen2_5_VLAttention",
        "Qwen2MLP",
        "Qwen2_5_VLRMSNorm",
    })

    def spacing(self, videos: Sequence[Frames]) -> dict[str, Tensor]:
        """Return the seconds from one temporal patch of each video to the next."""
        depth = self.config.vision_config.temporal_patch_size
        rates = [len(frames.indices) / frames.num_source_frames * frames.source_fps for frames in videos]
        return {"second_per_grid_ts": torch.tensor([depth / rate for rate in rates])}
