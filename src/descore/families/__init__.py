"""Families of backbones, one object each: what differs between them is here, and the common code knows none by name."""

from __future__ import annotations

from transformers import PreTrainedConfig

from descore.families.family import Family
from descore.families.glm4v import Glm4v
from descore.families.internvl import InternVL
from descore.families.qwen2_5_vl import Qwen2_5VL
from descore.families.qwen2_vl import Qwen2VL
from descore.families.qwen3_5 import Qwen3_5
from descore.families.qwen3_vl import Qwen3VL
from descore.families.qwen3_vl_moe import Qwen3VLMoe
from descore.families.smolvlm2 import SmolVLM2

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: dict[str, type[Family]] = {
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2_5VL,
    "qwen3_vl": Qwen3VL,
    "qwen3_vl_moe": Qwen3VLMoe,
    "qwen3_5": Qwen3_5,
    "internvl": InternVL,
    "smolvlm": SmolVLM2,
    "glm4v": Glm4v,
}
"""Supported families, by the `model_type` of their configuration."""


def family_of(config: PreTrainedConfig, *, loose: bool = False) -> Family:
    """Return the family of a configuration, bound to it.

    Args:
        config: Configuration of a backbone.
        loose: Whether each frame of a video is shown as a picture of its own, instead of all as a video.

    Raises:
        ValueError: If the family is not supported.

    >>> from transformers import Qwen3VLConfig
    >>> family_of(Qwen3VLConfig()).placeholder
    '<|video_pad|>'
    >>> family_of(Qwen3VLConfig(), loose=True).placeholder
    '<|image_pad|>'
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"the family {config.model_type!r} is not among descore.families; supported are {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type](config, loose=loose)
