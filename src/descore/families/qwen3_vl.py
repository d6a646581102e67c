"""Qwen3-VL: each temporal patch is a vision block of its own, after its time in seconds."""

from __future__ import annotations

from collections.abc import Sequence

from descore.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """Qwen3-VL, the backbone of the published recipe, with DeepStack features."""

    modules = frozenset({
        "Qwen3VLTextModel",
        "Qwen3VLTextDecoderLayer",
        "Qwen3VLTextAttention",
        "Qwen3VLTextMLP",
        "Qwen3VLTextRMSNorm",
    })

    def text_of_patches(self, placeholders: str, seconds: Sequence[float]) -> str:
        """Return a block for each temporal patch, after the middle of its frames in seconds."""
        block = self.video.text.replace(self.placeholder, placeholders)
        return "".join(f"<{middle:.1f} seconds>{block}" for middle in seconds)
