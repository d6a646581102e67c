"""Qwen3.5: Qwen3-VL's videos, and linear attention in most layers, whose state forks from a prefix to its branches."""

from __future__ import annotations

from typing import Any

from descore.families.qwen3_vl import Qwen3VL


class Qwen3_5(Qwen3VL):
    """Qwen3.5 with dense layers, without DeepStack."""

    layer_kinds = frozenset({"full_attention", "linear_attention"})
    graphed = False
    modules = frozenset({
        "Qwen3_5TextModel",
        "Qwen3_5DecoderLayer",
        "Qwen3_5Attention",
        "ForkingDeltaNet",
        "Qwen3_5MLP",
        "Qwen3_5RMSNorm",
    })

    def prepare(self, backbone: Any) -> None:
        """Give the linear layers their forward over packed rows; their weights and names stay."""
        from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

        from descore.families.delta_net import ForkingDeltaNet

        for layer in backbone.get_submodule(f"{self.language}.layers"):
            if type(getattr(layer, "linear_attn", None)) is Qwen3_5GatedDeltaNet:
                layer.linear_attn.__class__ = ForkingDeltaNet
