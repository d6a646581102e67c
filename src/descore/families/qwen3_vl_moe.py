"""Qwen3-VL-MoE: Qwen3-VL with mixtures of experts in its language model."""

from __future__ import annotations

from descore.families.qwen3_vl import Qwen3VL


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL-MoE. Its experts are tensors and no linear layers, so LoRA on the language model adapts attention."""

    graphed = False
    modules = frozenset({
        "Qwen3VLMoeTextModel",
        "Qwen3VLMoeTextDecoderLayer",
        "Qwen3VLMoeTextAttention",
        "Qwen3VLMoeTextSparseMoeBlock",
        "Qwen3VLMoeTextMLP",
        "Qwen3VLMoeTextRMSNorm",
    })
