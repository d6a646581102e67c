"""Memory and time of a run, by formula: the most that each GPU holds, and about how long a pair takes.

A backbone is made on the device "meta", so its parameters are counted as they are, whatever trains. Activations and
operations follow `formulas.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import nn

from benchmarks.fits import formulas
from benchmarks.fits.formulas import Keeping, Video
from benchmarks.speed.backbones import SHAPES, TRAINED, random_model
from descore.model.reward_model import LOGIT_BYTES, RewardModel
from descore.model.thought_cache import capacity


@dataclass(frozen=True, slots=True)
class Plan:
    """A run.

    Attributes:
        shape: Name of the sizes of the backbone.
        stage: Stage of the training, 1 or 2.
        rank: Rank of LoRA on the language model; 0 trains it in full.
        gpus: Number of GPUs.
        sharding: How the model is spread over them: "none", "ddp" or "fsdp".
        checkpointing: Whether activations are recomputed in the backward pass.
        prefix: Tokens before a thought.
        patches: Patches of a video.
        segment: Patches of a frame.
        thought: Tokens of a thought.
        thoughts: Thoughts per video in stage 2.
        together: Videos that are thought about at the same time.
        batch: Pairs of a rollout batch on each GPU.
    """

    shape: str
    stage: int
    rank: int
    gpus: int
    sharding: Literal["none", "ddp", "fsdp"]
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
        products: Operations in matrix products that a step reaches.
        memory: Bytes read from its memory.
        exchange: Bytes exchanged with other GPUs.
        start: Seconds, at least, that a layer takes for one token.
    """

    products: float
    memory: float
    exchange: float
    start: float


@cache
def trained_model(shape: str, stage: int, rank: int) -> RewardModel:
    """Make a model that takes no memory: what trains in float32, all else in bfloat16."""
    return random_model(SHAPES[shape], "meta", torch.bfloat16, parts=TRAINED[stage], lora_rank=rank)


def state(model: nn.Module, stage: int, shards: int = 1) -> dict[str, float]:
    """Bytes of weights, gradients and moments on a GPU.

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
    """Bytes of a GPU by kind, and their `peak`: the larger of what rollouts and an update need at once."""
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
    """Seconds that a pair takes on each GPU, by phase; exchange overlaps with the products of a phase."""
    model = trained_model(plan.shape, plan.stage, plan.rank)
    config, pair, rows = model.base.config, plan.pair, plan.num_rows
    update = formulas.update(
        config,
        pair,
        rank=plan.rank,
        num_rows=rows,
        vision_trains=plan.stage == 1,
        checkpointing=plan.checkpointing,
        logits_twice=4 * rows * config.text_config.vocab_size > LOGIT_BYTES,
    )
    found = {"update": max(update / rates.products, _exchanged(plan, model) / rates.exchange)}
    if plan.stage == 2:
        prefixes = [replace(video, branches=()) for video in pair]
        prefill = formulas.vision(config, pair) + formulas.forward(config, prefixes, rank=plan.rank)
        found["think"] = prefill / rates.products + _decoding(plan, model, rates)
        found["reference"] = formulas.forward(config, pair, num_rows=rows) / rates.products
    return found


def activations(model: RewardModel, videos: Sequence[Video], keeping: Keeping, num_rows: int) -> float:
    """The most bytes that activations take: those kept, and what the backward pass of a layer needs."""
    config = model.base.config
    held = formulas.kept(config, videos, keeping, num_rows)
    if keeping.casts:
        held += narrowed(model, checkpointing=keeping.checkpointing)
    num_tokens, num_patches = (sum(getattr(video, name) for video in videos) for name in ("num_tokens", "patches"))
    gradients = 3 * num_tokens * keeping.compute * config.text_config.intermediate_size
    text = gradients + keeping.checkpointing * formulas.decoder_layer(config, videos, keeping)
    tower = keeping.checkpointing * keeping.vision_trains * formulas.vision_block(config, num_patches, keeping)
    return held + max(text, tower, 3.0 * min(LOGIT_BYTES, 4 * num_rows * config.text_config.vocab_size))


def narrowed(model: nn.Module, *, checkpointing: bool) -> float:
    """Bytes that autocast keeps of trained weights, where they are not gathered narrow.

    It keeps none of layers that are recomputed; lm_head narrows its own anew for every piece of logits.
    """
    other = {"head", "lm_head", "pos_embed"}
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    products = {name: numel for name, numel in trained.items() if not other & set(name.split("."))}
    return float(sum(2 * numel for name, numel in products.items() if not (checkpointing and _unit(name))))


def _units(plan: Plan, model: RewardModel) -> float:
    """Bytes gathered at once: all that belongs to no layer, a layer and the next one, and the gradients of a layer."""
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
    """Layer that a parameter is gathered with; empty for what is gathered with the whole model."""
    parts = name.split(".")
    places = [index for index, part in enumerate(parts) if part in {"layers", "blocks"}]
    return ".".join(parts[: places[0] + 2]) if places else ""


def _rollouts(plan: Plan, model: RewardModel) -> float:
    """Bytes that thinking needs: all weights gathered, keys and values, features of the batch, a layer at work."""
    if plan.stage == 1:
        return 0.0
    text = model.base.config.text_config
    gathered = 2.0 * sum(p.numel() for p in model.parameters()) if plan.sharding == "fsdp" else 0.0
    slots = plan.thoughts * capacity(plan.thought + 1)
    prefill = plan.together * plan.prefix
    # Right after the prefill, the keys and values of prefixes are held twice.
    cached = plan.together * max(2 * plan.prefix, plan.prefix + slots) * _key_bytes(model)
    at_work = prefill * 2 * (3 * text.intermediate_size + 4 * text.hidden_size)
    return gathered + cached + at_work + _seen(plan, model)


def _seen(plan: Plan, model: RewardModel) -> float:
    """Bytes of the features of all videos of a rollout batch."""
    config = model.base.config
    rows = 2 * plan.batch * plan.patches // 4 * (1 + len(config.vision_config.deepstack_visual_indexes))
    return 2.0 * rows * config.text_config.hidden_size if plan.stage == 2 else 0.0


def _key_bytes(model: RewardModel) -> float:
    """Bytes of the keys and values of a token in all layers."""
    text = model.base.config.text_config
    return 2.0 * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim


def _exchanged(plan: Plan, model: RewardModel) -> float:
    """Bytes that a GPU exchanges for an update: weights for both passes, and sums of gradients."""
    if plan.sharding == "none":
        return 0.0
    numel = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = (plan.gpus - 1) / plan.gpus
    return share * (2 * 2 * numel + 4 * trained if plan.sharding == "fsdp" else 2 * 4 * trained)


def _decoding(plan: Plan, model: RewardModel, rates: Rates) -> float:
    """Seconds to write the thoughts of a pair, one token of all of them at a time."""
    text = model.base.config.text_config
    weights = 2.0 * sum(parameter.numel() for name, parameter in model.named_parameters() if "visual" not in name)
    cached = plan.together * (plan.prefix + plan.thoughts * plan.thought / 2) * _key_bytes(model)
    token = max((weights + cached) / rates.memory, rates.start * text.num_hidden_layers)
    return token * plan.thought * 2 / plan.together
