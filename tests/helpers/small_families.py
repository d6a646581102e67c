"""A small backbone with random weights of every family, in transformers' format, made without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Glm4vConfig,
    InternVLConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3_5Config,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    SmolVLMConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from data_modules.world.small_backbone import write_tokenizer

CORPUS = ("A red circle moves left fast.", "Frame 1", "<1.5 seconds>", "Judge the video.", "00:01")
VOCABULARY = 384
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
PATCHES = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 8, "spatial_merge_size": 2}
PATCHES |= {"temporal_patch_size": 2, "out_hidden_size": 64, "intermediate_size": 64}
SQUARES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GLM_TOKENS = ("begin_of_video", "video", "end_of_video", "begin_of_image", "image", "end_of_image", "user", "assistant")
TOKENS = {
    "internvl": ("<img>", "<IMG_CONTEXT>", "</img>", "<video>"),
    "smolvlm": ("<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"),
    "glm4v": tuple(f"<|{name}|>" for name in GLM_TOKENS),
}
TEMPLATES = {
    "internvl": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for part in message['content'] %}"
        "{% if part['type'] == 'video' %}{{ '<video>\n' }}{% elif part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
    ),
    "glm4v": (
        "{% for message in messages %}{{'<|user|>\n'}}{% for part in message['content'] %}"
        "{% if part['type'] == 'video' %}{{ '<|begin_of_video|><|video|><|end_of_video|>' }}"
        "{% elif part['type'] == 'image' %}{{ '<|begin_of_image|><|image|><|end_of_image|>' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}{{'<|assistant|>\n' }}{% endif %}"
    ),
}


def write_family(folder: Path, family: str) -> None:
    """Write a small backbone; its weights are larger than usual, so that a wrong mask or position shows."""
    vision_ids = write_tokenizer(folder, CORPUS, 320)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if family in TOKENS:
        tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS[family])})
        tokenizer.chat_template = TEMPLATES.get(family, "{{ 'for pictures only' }}")
        tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = _config(family, vision_ids, tokenizer.convert_tokens_to_ids)
        network = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
                elif "lambda" in name or not parameter.any():
                    parameter.normal_(0, 0.3)
    network.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    network.save_pretrained(folder)


def _config(family: str, ids: dict[str, int], id_of: Any) -> Any:
    qwen = {"text_config": {**TEXT, "rope_parameters": MROPE}, "vision_config": PATCHES, **ids}
    deep = {**PATCHES, "num_position_embeddings": 36, "deepstack_visual_indexes": [0]}
    if family == "qwen2_vl":
        vision = {**PATCHES, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        return Qwen2VLConfig(**{**qwen, "vision_config": vision})
    if family == "qwen2_5_vl":
        return Qwen2_5_VLConfig(**{
            **qwen,
            "vision_config": {**PATCHES, "window_size": 32, "fullatt_block_indexes": [1]},
        })
    if family == "qwen3_vl":
        return Qwen3VLConfig(**{**qwen, "vision_config": deep})
    if family == "qwen3_vl_moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        return Qwen3VLMoeConfig(**{**qwen, "text_config": {**qwen["text_config"], **experts}, "vision_config": deep})
    if family == "qwen3_5":
        return _qwen3_5(qwen)
    if family == "internvl":
        vision = {**SQUARES, "image_size": [32, 32], "patch_size": [8, 8]}
        text = {**TEXT, "model_type": "qwen3"}
        return InternVLConfig(text_config=text, vision_config=vision, image_token_id=id_of("<IMG_CONTEXT>"))
    if family == "smolvlm":
        vision = {**SQUARES, "image_size": 32, "patch_size": 8}
        text = {**TEXT, "model_type": "llama"}
        return SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=id_of("<image>"), scale_factor=2)
    named = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    written = ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
    tokens = {f"{key}_token_id": id_of(f"<|{name}|>") for key, name in zip(named, written, strict=True)}
    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    half = {**MROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
    vision = {**PATCHES, "image_size": 32}
    return Glm4vConfig(text_config={**text, "rope_parameters": half}, vision_config=vision, **tokens)


def _qwen3_5(qwen: dict[str, Any]) -> Qwen3_5Config:
    linear = {
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {**MROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]},
    }
    vision = {**PATCHES, "num_position_embeddings": 36}
    return Qwen3_5Config(**{**qwen, "text_config": {**qwen["text_config"], **linear}, "vision_config": vision})
