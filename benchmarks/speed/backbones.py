"""Random backbones in any size of Qwen3-VL, made on the device that runs them: no download, no file.

On the device "meta" they have names, shapes and types but take no memory, which is enough to count with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel, Qwen3VLConfig

from data_modules.world.small_backbone import write_tokenizer
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.trainable import Part, make_trainable

PROMPT = "A red kite climbs over a windy beach while two children run after it, filmed from a low angle."

TRAINED: dict[int, list[Part]] = {
    1: ["language", "vision", "merger", "query", "head"],
    2: ["language", "query", "head"],
}
"""What trains in each stage of the published recipe."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3-VL.

    Attributes:
        text: Width of the language model.
        layers: Number of its layers.
        heads: Number of its query heads.
        mlp: Width of its MLPs.
        vision: Width of the vision tower.
        blocks: Number of its layers.
        vision_mlp: Width of its MLPs.
        deepstack: Layers of the vision tower that the language model sees besides the last.
        key_heads: Number of key heads of the language model.
        head: Width of one of its heads.
        tied: Whether lm_head shares the weights of the embedding.
        vocabulary: Rows of the embedding.
    """

    text: int
    layers: int
    heads: int
    mlp: int
    vision: int = 1152
    blocks: int = 27
    vision_mlp: int = 4304
    deepstack: tuple[int, ...] = (8, 16, 24)
    key_heads: int = 8
    head: int = 128
    tied: bool = False
    vocabulary: int = 151_936


def small_shape(width: int, layers: int, vocabulary: int) -> Shape:
    """Sizes for a CPU; the vision tower is half as wide as the language model."""
    vision = width // 2
    return Shape(width, layers, 4, 3 * width, vision, 3, 4 * vision, (1,), 2, width // 4, vocabulary=vocabulary)


SHAPES = {
    "tiny": Shape(64, 2, 4, 192, 64, 3, 128, deepstack=(1,), key_heads=2, head=16, vocabulary=2048),
    "2B": Shape(2048, 28, 16, 6144, vision=1024, blocks=24, vision_mlp=4096, deepstack=(5, 11, 17), tied=True),
    "8B": Shape(4096, 36, 32, 12288),
    "32B": Shape(5120, 64, 64, 25600),
}


def random_model(
    shape: Shape, device: str, dtype: torch.dtype, *, parts: Sequence[Part], lora_rank: int = 0, **settings: Any
) -> RewardModel:
    """Make a reward model with random weights on a device; its tokenizer knows little more than one prompt.

    Args:
        shape: Sizes of the backbone.
        device: Device of all weights.
        dtype: Type of frozen weights; trained ones are float32.
        parts: Parts that train.
        lora_rank: Rank of LoRA on the language model; 0 trains it in full.
        **settings: Settings of the model other than its backbone.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokenizer(Path(folder), [PROMPT], shape.vocabulary)
        _configuration(shape, tokens).save_pretrained(folder)
        processor = Processor(ModelSettings(folder, **{"template": "{prompt}"} | settings))
    # A real tokenizer knows nearly all rows; to forbid all rows that this one does not know would take time.
    processor.forbidden_ids = [token for token in processor.forbidden_ids if token < len(processor.tokenizer)]
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        network: PreTrainedModel = AutoModelForImageTextToText.from_config(processor.backbone.config, dtype=dtype)
        model = RewardModel(processor, network)
        model.head.weight.data.normal_(0, 0.02)
        lora: list[Part] = ["language"] if lora_rank else []
        make_trainable(model, parts, lora_parts=lora, lora_rank=lora_rank, lora_alpha=2 * lora_rank)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
            if "lora_B" in name:  # where it is 0, as it starts, the other half of LoRA gets no gradient
                parameter.data.normal_(0, 0.02)
    return model.to(device)


def _configuration(shape: Shape, tokens: dict[str, int]) -> Qwen3VLConfig:
    """Configuration of transformers; `tokens` are the ids of the vision tokens."""
    half = shape.head // 2
    side = half * 5 // 16  # Qwen3-VL splits the 64 frequencies of a head into 24, 20 and 20
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.text,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head,
        "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_interleaved": True,
            "mrope_section": [half - 2 * side, side, side],
        },
        "tie_word_embeddings": shape.tied,
    }
    vision = {
        "depth": shape.blocks,
        "hidden_size": shape.vision,
        "intermediate_size": shape.vision_mlp,
        "num_heads": 16 if shape.vision > 512 else 4,
        "out_hidden_size": shape.text,
        "deepstack_visual_indexes": list(shape.deepstack),
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied, **tokens)
