"""Memory and time of a run, by formula: what each GPU holds at most, and about how long a pair takes.

A backbone is made on the device "meta", so its parameters are counted as they are, whatever trains. Activations and
operations follow `benchmarks/fits/activations.py` and `benchmarks/fits/flops.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import nn
from transformers import Qwen3VLConfig

from benchmarks.fits import flops
from benchmarks.fits.activations import Keeping, decoder_layer, kept, logits, vision_block
from benchmarks.fits.flops import Video
from benchmarks.speed.shapes import SHAPES, random_model
from descore.model.reward_model import LOGIT_BYTES, RewardModel
from descore.model.thought_cache import capacity
from descore.model.trainable import Part, make_trainable

Sharding = Literal["none", "ddp", "fsdp"]
TRAINED: dict[int, list[Part]] = {
    1: ["language", "vision", "merger", "query", "head"],
    2: ["language", "query", "head"],
}
"""What trains in a stage of the published recipe."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run.

    Attributes:
        shape: Name of the backbone's sizes.
        stage: 1 or 2.
        rank: Of LoRA on the language model; 0 trains it in full.
        gpus: How many.
        sharding: How the model is spread over them.
        checkpointing: Whether activations are made again in the backward pass.
        prefix: Tokens before a thought.
        patches: Patches of a video.
        segment: Patches of a frame.
        thought: Tokens of a thought.
        thoughts: Thoughts of a video, in stage 2.
        together: Videos that are thought about at the same time.
        batch: Pairs of a rollout batch, on each GPU.
    """

    shape: str
    stage: int
    rank: int
    gpus: int
    sharding: Sharding
    checkpointing: bool = True
    prefix: int = 6200
    patches: int = 20_000
    segment: int = 784
    thought: int = 1500
    thoughts: int = 8
    together: int = 4
    batch: int = 16

    @property
    def pair(self) -> list[Video]:
        """The two videos of a pair with their thoughts."""
        number = self.thoughts if self.stage == 2 else 1
        return [Video(self.prefix, self.patches, self.segment, (self.thought + 1,) * number)] * 2

    @property
    def num_rows(self) -> int:
        """Positions of a pair whose logits are made; stage 1 makes none."""
        return 2 * self.thoughts * (self.thought + 1) if self.stage == 2 else 0

    @property
    def keeping(self) -> Keeping:
        """How activations are kept, in bf16-mixed."""
        return Keeping(2, self.sharding != "fsdp", self.rank, self.stage == 1, self.checkpointing)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a GPU does in a second.

    Attributes:
        products: Operations in matrix products, the share of the peak that is reached taken.
        memory: Bytes that are read from its memory.
        exchange: Bytes that come from or go to other GPUs.
        start: Seconds to start what a layer does for one token, a floor where little is to be done.
    """

    products: float
    memory: float
    exchange: float
    start: float


@cache
def trained_model(shape: str, stage: int, rank: int) -> RewardModel:
    """Make a model without memory, and choose what trains: in float32, all else in bfloat16."""
    model = random_model(SHAPES[shape], "meta", torch.bfloat16)
    choose(model, TRAINED[stage], rank)
    return model


def choose(model: RewardModel, parts: list[Part], rank: int) -> None:
    """Choose what trains as a stage does, and give it float32."""
    in_lora: list[Part] = ["language"] if rank else []
    make_trainable(model, parts, lora_parts=in_lora, lora_rank=rank, lora_alpha=2 * rank)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def state(model: nn.Module, stage: int, shards: int = 1) -> dict[str, float]:
    """Return bytes of a GPU that last for the whole run, and those of the gradients.

    A weight is cut along its first dimension, and every GPU has room for the largest piece. Stage 1 makes no logits, so
    lm_head gets no gradient there.
    """
    found = {"weights": 0.0, "gradients": 0.0, "moments": 0.0}
    for name, parameter in model.named_parameters():
        piece = -(-parameter.shape[0] // shards) * parameter[0].numel() * parameter.element_size()
        found["weights"] += piece
        if parameter.requires_grad and not (stage == 1 and "lm_head" in name):
            found["gradients"] += piece
            found["moments"] += 2 * piece
    return found


def memory(plan: Plan) -> dict[str, float]:
    """Return bytes of a GPU by kind, and the `peak`: the larger of what rollouts and the update need at once."""
    model = trained_model(plan.shape, plan.stage, plan.rank)
    shards = plan.gpus if plan.sharding == "fsdp" else 1
    found = state(model, plan.stage, shards)
    numel = sum(parameter.numel() for parameter in model.parameters())
    found["reference"] = 2.0 * numel / shards if plan.stage == 2 and not plan.rank else 0.0
    found["activations"] = activations(model, plan.pair, plan.keeping, plan.num_rows)
    lasting = found["weights"] + found["reference"] + found["moments"]
    update = lasting + found["gradients"] + found["activations"] + _units(plan, model)
    found["rollouts"] = _rollouts(plan, model)
    found["peak"] = max(update + _seen(plan, model), lasting + found["rollouts"])
    return found


def seconds(plan: Plan, rates: Rates) -> dict[str, float]:
    """Return what a pair takes on each GPU, by phase; exchange goes on beside the products of a phase."""
    model = trained_model(plan.shape, plan.stage, plan.rank)
    config, pair, rows, trains = _config(model), plan.pair, plan.num_rows, plan.keeping
    options = {"rank": plan.rank, "num_rows": rows, "checkpointing": plan.checkpointing}
    twice = logits(config, rows, trains) < 4 * rows * config.text_config.vocab_size
    update = flops.update(config, pair, **options, vision_trains=plan.stage == 1, logits_twice=twice)  # type: ignore[arg-type]
    found = {"update": max(update / rates.products, _exchanged(plan, model) / rates.exchange)}
    if plan.stage == 2:
        prefixes = [replace(video, branches=()) for video in pair]
        look = flops.vision(config, pair) + flops.forward(config, prefixes, rank=plan.rank)
        found["think"] = look / rates.products + _decoding(plan, model, rates)
        found["reference"] = flops.forward(config, pair, num_rows=rows) / rates.products
    return found


def activations(model: RewardModel, videos: Sequence[Video], keeping: Keeping, num_rows: int) -> float:
    """Return the most that activations take: what is kept, and what a layer needs while it is gone back through."""
    config = _config(model)
    held = kept(config, videos, keeping, num_rows)
    if keeping.casts:
        held += narrowed(model, checkpointing=keeping.checkpointing)
    num_tokens, num_patches = (sum(getattr(video, name) for video in videos) for name in ("num_tokens", "patches"))
    gradients = 3 * num_tokens * keeping.compute * config.text_config.intermediate_size
    text = gradients + keeping.checkpointing * decoder_layer(config, videos, keeping)
    tower = keeping.checkpointing * keeping.vision_trains * vision_block(config, num_patches, keeping)
    return held + max(text, tower, 3.0 * min(LOGIT_BYTES, 4 * num_rows * config.text_config.vocab_size))


def narrowed(model: nn.Module, *, checkpointing: bool) -> float:
    """Return bytes that autocast keeps of trained weights, where they are not gathered narrow.

    Of layers that are made again it keeps none; lm_head narrows its own anew for every piece of logits.
    """
    products = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim > 1
        and not {"head", "lm_head", "pos_embed"} & set(name.split("."))
    }
    return float(sum(2 * p.numel() for name, p in products.items() if not (checkpointing and _unit(name))))


def _units(plan: Plan, model: RewardModel) -> float:
    """What is gathered at once: all that belongs to no layer, a layer, and the next one; gradients of a layer too."""
    if plan.sharding != "fsdp":
        return 0.0
    sizes: dict[str, float] = {}
    trained: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        unit = _unit(name)
        sizes[unit] = sizes.get(unit, 0.0) + 2 * parameter.numel()
        trained[unit] = trained.get(unit, 0.0) + (2 + 4) * parameter.numel() * parameter.requires_grad
    root = sizes.pop("")
    return root + 2 * max(sizes.values()) + max(trained.values())


def _unit(name: str) -> str:
    """Layer that a parameter is gathered with; nothing for what is gathered with the whole model."""
    parts = name.split(".")
    places = [index for index, part in enumerate(parts) if part in {"layers", "blocks"}]
    return ".".join(parts[: places[0] + 2]) if places else ""


def _rollouts(plan: Plan, model: RewardModel) -> float:
    """What thinking needs: all weights gathered, keys and values, what was seen of the batch, a layer at work."""
    if plan.stage == 1:
        return 0.0
    text = _config(model).text_config
    gathered = 2.0 * sum(p.numel() for p in model.parameters()) if plan.sharding == "fsdp" else 0.0
    slots = plan.thoughts * capacity(plan.thought + 1)
    prefill = plan.together * plan.prefix
    # Right after the prefill, prefixes are there as they were read and as they are kept.
    cached = plan.together * max(2 * plan.prefix, plan.prefix + slots) * _key_bytes(model)
    at_work = prefill * 2 * (3 * text.intermediate_size + 4 * text.hidden_size)
    return gathered + cached + at_work + _seen(plan, model)


def _seen(plan: Plan, model: RewardModel) -> float:
    """What the vision tower made of all videos of a rollout batch."""
    config = _config(model)
    rows = 2 * plan.batch * plan.patches // 4 * (1 + len(config.vision_config.deepstack_visual_indexes))
    return 2.0 * rows * config.text_config.hidden_size if plan.stage == 2 else 0.0


def _key_bytes(model: RewardModel) -> float:
    """Keys and values of a token in all layers."""
    text = _config(model).text_config
    return 2.0 * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim


def _exchanged(plan: Plan, model: RewardModel) -> float:
    """Bytes of an update that a GPU exchanges: weights for both passes, and sums of gradients."""
    if plan.sharding == "none":
        return 0.0
    numel = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = (plan.gpus - 1) / plan.gpus
    return share * (2 * 2 * numel + 4 * trained if plan.sharding == "fsdp" else 2 * 4 * trained)


def _decoding(plan: Plan, model: RewardModel, rates: Rates) -> float:
    """Seconds to write the thoughts of a pair, a token of all of them at a time."""
    text = _config(model).text_config
    weights = 2.0 * sum(parameter.numel() for name, parameter in model.named_parameters() if "visual" not in name)
    cached = plan.together * (plan.prefix + plan.thoughts * plan.thought / 2) * _key_bytes(model)
    token = max((weights + cached) / rates.memory, rates.start * text.num_hidden_layers)
    return token * plan.thought * 2 / plan.together


def _config(model: RewardModel) -> Qwen3VLConfig:
    return model.base.config
