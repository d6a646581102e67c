"""Qwen2-VL: one vision block for a video, without times."""

from __future__ import annotations

from collections.abc import Sequence

from descore.families.family import Medium
from descore.families.patches import PatchFamily


class Qwen2VL(PatchFamily):
    """Qwen2-VL, the backbone of VideoReward, HPSv3 and VideoScore's second release."""

    video = Medium("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>", "video_token_id")
    picture = Medium("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>", "image_token_id")
    control_tokens = ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>", "<|im_end|>")
    modules = frozenset({"Qwen2VLTextModel", "Qwen2VLDecoderLayer", "Qwen2VLAttention", "Qwen2MLP", "Qwen2VLRMSNorm"})

    def text_of_patches(self, placeholders: str, seconds: Sequence[float]) -> str:
        """Return one block with the placeholders of all temporal patches."""
        return self.video.text.replace(self.placeholder, placeholders * len(seconds))
