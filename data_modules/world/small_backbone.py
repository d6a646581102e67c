"""Small backbones with random weights, in transformers' format: the start of the tiny backbone and of every test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from data_modules.world.scene import draw_request, draw_shown
from data_modules.world.teacher import Teacher
from data_modules.world.wording import write_prompt
from descore.inputs.prompts import PromptTemplate
from descore.types import DIMENSIONS

VISION = ("vision_start", "vision_end", "image_pad", "video_pad")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|{name}|>" for name in VISION))
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_WORDS = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a small backbone.

    Attributes:
        text: Width of the language model.
        text_layers: Number of layers of the language model.
        vision: Width of the vision tower.
        vision_layers: Number of layers of the vision tower.
        heads: Number of attention heads of both.
        patch: Side of a patch in pixels.
        positions: Number of learned positions of the vision tower; a square number.
        vocabulary: Number of rows of the embedding; the tokenizer may use fewer.
    """

    text: int = 128
    text_layers: int = 4
    vision: int = 96
    vision_layers: int = 3
    heads: int = 4
    patch: int = 8
    positions: int = 36
    vocabulary: int = 640


def write_random_backbone(
    folder: Path,
    corpus: Iterable[str],
    *,
    family: Literal["qwen3_vl", "qwen2_5_vl"] = "qwen3_vl",
    sizes: Sizes | None = None,
    seed: int = 0,
) -> None:
    """Write a backbone that transformers can load: configuration, tokenizer trained on a corpus, random weights.

    Args:
        folder: Folder to write.
        corpus: Texts that the tokenizer learns its merges from.
        family: Architecture of the backbone.
        sizes: Sizes of the backbone; the defaults if not given.
        seed: Seed of the weights.
    """
    sizes = sizes or Sizes()
    tokens = write_tokenizer(folder, corpus, sizes.vocabulary)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family, sizes, tokens)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)


def write_tokenizer(folder: Path, corpus: Iterable[str], vocabulary: int) -> dict[str, int]:
    """Train a tokenizer on a corpus, and write it with the pixel statistics of a backbone.

    Args:
        folder: Folder to write.
        corpus: Texts that the tokenizer learns its merges from.
        vocabulary: Number of rows of the embedding; the tokenizer has a few tokens fewer.

    Returns:
        Ids of the vision tokens by the names that a transformers configuration gives them.
    """
    tokenizer = _train_tokenizer(corpus, vocabulary)
    tokenizer.save_pretrained(folder)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2) + "\n")
    return {f"{name.removesuffix('_pad')}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in VISION}


def rendered_corpus(num_texts: int = 2000, seed: int = 0) -> Iterator[str]:
    """Yield texts of the rendered world for the tokenizer to learn from: instructions, thoughts and time labels.

    Args:
        num_texts: Number of texts of each kind.
        seed: Seed of the texts.
    """
    rng = np.random.default_rng(seed)
    template = PromptTemplate.read("rendered")
    for index in range(num_texts):
        request = draw_request(rng, "pretraining", 0.25)
        shown = draw_shown(rng, request, "pretraining", 0.3)
        yield template.messages(write_prompt(request, "pretraining", rng))[0]["content"][1]["text"]
        yield Teacher(habits={}).thought(request, shown, seed=seed, video=str(index))
        yield f"<{rng.uniform(0, 9):.1f} seconds>"
        yield "Video: " + "; ".join(", ".join(shown.words(name)) for name in DIMENSIONS) + "."
        yield " ".join(f"Is it {word}?" for name in DIMENSIONS for word in shown.words(name))


def _train_tokenizer(corpus: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(_WORDS, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS) - len(SPECIAL) - 8,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    core.add_tokens([AddedToken(token, special=False) for token in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def _model(family: str, sizes: Sizes, tokens: dict[str, int]) -> Any:
    text = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.text,
        "intermediate_size": sizes.text * 3,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": max(sizes.heads // 2, 1),
        "head_dim": sizes.text // sizes.heads,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": _sections(sizes)},
        "tie_word_embeddings": True,
    }
    vision: dict[str, Any] = {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.vision,
        "intermediate_size": sizes.vision * 4,
        "num_heads": sizes.heads,
        "patch_size": sizes.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": sizes.text,
    }
    if family == "qwen3_vl":
        vision |= {"num_position_embeddings": sizes.positions, "deepstack_visual_indexes": [sizes.vision_layers // 2]}
        config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
        return Qwen3VLForConditionalGeneration(config)
    vision |= {"window_size": sizes.patch * 4, "fullatt_block_indexes": [sizes.vision_layers - 1]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
    )


def _sections(sizes: Sizes) -> list[int]:
    """Divide half the width of a head between time, height and width, as M-RoPE needs it."""
    half = sizes.text // sizes.heads // 2
    side = half * 3 // 8
    return [half - 2 * side, side, side]
