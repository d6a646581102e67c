"""Backbones in the sizes of Qwen3-VL with random weights, made on the device that is to run them: no download, no file.

On the device "meta" they have names, shapes and types and take no memory, which is enough to count with.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel, Qwen3VLConfig

from benchmarks.speed.harness import PROMPT
from data_modules.world.small_backbone import write_tokenizer
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3-VL.

    Attributes:
        text: Width of the language model.
        layers: Its number of layers.
        heads: Its query heads.
        key_heads: Its key heads.
        head: Width of a head.
        mlp: Width within an MLP.
        vision: Width of the vision tower.
        blocks: Its number of layers.
        vision_mlp: Width within an MLP of it.
        deepstack: Layers of it that the language model sees besides the last.
        tied: Whether lm_head is the embedding.
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


SHAPES = {
    "tiny": Shape(
        64, 2, 4, 192, vision=64, blocks=3, vision_mlp=128, deepstack=(1,), key_heads=2, head=16, vocabulary=2048
    ),
    "2B": Shape(2048, 28, 16, 6144, vision=1024, blocks=24, vision_mlp=4096, deepstack=(5, 11, 17), tied=True),
    "8B": Shape(4096, 36, 32, 12288),
    "32B": Shape(5120, 64, 64, 25600),
}


def configuration(shape: Shape, tokens: dict[str, int] | None = None) -> Qwen3VLConfig:
    """Return transformers' configuration; `tokens` are the ids of the vision tokens, those of Qwen3-VL if not given."""
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
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied, **(tokens or {}))


def random_model(shape: Shape, device: str, dtype: torch.dtype, *, max_thought_tokens: int = 4096) -> RewardModel:
    """Make a reward model with random weights on a device; its tokenizer knows little more than one prompt."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokenizer(Path(folder), [PROMPT], shape.vocabulary)
        configuration(shape, tokens).save_pretrained(folder)
        processor = Processor(ModelSettings(folder, "{prompt}", max_thought_tokens=max_thought_tokens))
    # A backbone's own tokenizer knows nearly all rows; to forbid those that this one does not know would take time.
    processor.forbidden_ids = [token for token in processor.forbidden_ids if token < len(processor.tokenizer)]
    model = RewardModel(processor, _network(processor.backbone.config, device, dtype)).to(device)
    with torch.no_grad():
        model.head.weight.normal_(0, 0.02)
    return model


def _network(config: Qwen3VLConfig, device: str, dtype: torch.dtype) -> PreTrainedModel:
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        network: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return network
