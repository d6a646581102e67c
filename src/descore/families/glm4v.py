"""GLM-4.1V: each temporal patch is a picture block of its own, before its time in whole seconds."""

from __future__ import annotations

from collections.abc import Sequence

from descore.families.family import Medium
from descore.families.patches import PatchFamily
from descore.types import Frames


class Glm4v(PatchFamily):
    """GLM-4.1V and the dense GLM-4.5V, which write videos with the placeholder of pictures."""

    video = Medium("<|begin_of_video|><|video|><|end_of_video|>", "<|image|>", "image_token_id")
    picture = Medium("<|begin_of_image|><|image|><|end_of_image|>", "<|image|>", "image_token_id")
    control_tokens = (
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|begin_of_image|>",
        "<|image|>",
        "<|end_of_image|>",
        "<|user|>",
    )
    end_of_turn = "<|user|>"
    modules = frozenset({
        "Glm4vTextModel",
        "Glm4vTextDecoderLayer",
        "Glm4vTextAttention",
        "Glm4vTextMLP",
        "Glm4vRMSNorm",
    })

    def text_of_patches(self, placeholders: str, seconds: Sequence[float]) -> str:
        """Return a block for each temporal patch, before the time of its first frame."""
        blocks = (f"<|begin_of_image|>{placeholders}<|end_of_image|>{int(second)}" for second in seconds)
        return self.video.text.replace("<|video|>", "".join(blocks))

    def seconds(self, frames: Frames) -> list[float]:
        """Return the time of the first frame of each temporal patch."""
        return list(frames.seconds[:: self.config.vision_config.temporal_patch_size])
