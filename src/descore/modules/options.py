"""Options that the modules share, in groups that LightningCLI nests: `--model.optimization.lora.rank 16`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from descore.model.trainable import Part

Schedule = Literal["constant_with_warmup", "cosine", "linear"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685).

    Attributes:
        parts: Parts of the model that train through adapters instead of their own weights.
        rank: Rank of the adapters.
        alpha: Scale of the adapters; their output is multiplied by alpha / rank.
    """

    parts: tuple[Part, ...] = ()
    rank: int = 64
    alpha: int = 128


@dataclass(frozen=True)
class Optimization:
    """What trains, and how its weights are updated.

    Attributes:
        learning_rates: Learning rate by part: language, vision, merger, query, head, embedding. A part without a rate
            is frozen.
        lora: Parts that train through low-rank adapters.
        optimizer: Optimizer class and its options; its learning rate is replaced by that of each part.
        schedule: Course of the learning rates after the warm-up.
        warmup: Share of the optimizer steps over which the learning rates rise from 0.
        gradient_clip: Largest gradient norm of a step; a larger one is scaled down to it. 0 switches clipping off.
        max_skipped: Number of steps in a row that may be skipped because loss or gradient is not finite; one more fails
            the run.
        gradient_checkpointing: Whether activations are recomputed in the backward pass, to save memory.
        frozen_dtype: Precision of the frozen weights; bfloat16 goes with trainer.precision bf16-mixed.
    """

    learning_rates: dict[Part, float] = field(default_factory=dict)
    lora: Lora = field(default_factory=Lora)
    optimizer: OptimizerCallable = AdamW
    schedule: Schedule = "constant_with_warmup"
    warmup: float = 0.05
    gradient_clip: float = 1.0
    max_skipped: int = 10
    gradient_checkpointing: bool = False
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def parts(self) -> list[Part]:
        """The parts that train."""
        return [part for part, rate in self.learning_rates.items() if rate > 0]


@dataclass(frozen=True)
class Batching:
    """How a rollout batch of stage 2 is worked on. A size of 0 takes all of it at once.

    Attributes:
        update_epochs: Passes over each rollout batch.
        mini_batch_pairs: Pairs per optimizer step and rank.
        micro_batch_pairs: Pairs per forward pass; the gradients of a mini-batch are accumulated.
        think_videos: Videos that are thought about in one batch.
    """

    update_epochs: int = 1
    mini_batch_pairs: int = 0
    micro_batch_pairs: int = 0
    think_videos: int = 0
