"""What both stages share: building the model, what trains, the optimizer and its schedule, checkpoints, validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from transformers import get_scheduler

from descore.model import RewardModel
from descore.modules.validation import Reading, Validated, Validation
from descore.parts import Part, check_parts, make_trainable, trainable
from descore.types import Pair, PairBatch

Schedule = Literal["constant_with_warmup", "cosine", "linear"]


class RewardSystem(LightningModule):
    """A reward model in training; the stages derive from it and add their losses.

    The arguments are documented where a user meets them, on `ColdStartModule` and `RLModule`.
    """

    model: RewardModel
    headline: Reading = "teacher_thought"
    """The reading of the validation pairs that gives the headline."""

    def __init__(
        self,
        build: Callable[[], RewardModel],
        *,
        learning_rates: dict[Part, float],
        lora_parts: list[Part],
        lora_rank: int,
        lora_alpha: int,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        warmup: float,
        gradient_checkpointing: bool,
        frozen_dtype: Literal["float32", "bfloat16"],
        own_thought_pairs: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_parts(list(learning_rates), lora_parts, lora_rank, lora_alpha)
        self._build = build
        self.learning_rates = learning_rates
        self.lora_parts = lora_parts
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.gradient_checkpointing = gradient_checkpointing
        self.frozen_dtype = getattr(torch, frozen_dtype)
        self.own_thought_pairs = own_thought_pairs
        self.seed = seed

    def configure_model(self) -> None:
        """Build the model once, and choose what trains."""
        if hasattr(self, "model"):
            return
        self.model = self._build()
        parts = [part for part, rate in self.learning_rates.items() if rate > 0]
        make_trainable(
            self.model, parts, lora_parts=self.lora_parts, lora_rank=self.lora_rank, lora_alpha=self.lora_alpha
        )
        for parameter in self.model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self.frozen_dtype)
        if self.gradient_checkpointing:
            self.model.base.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()

    def collator(self, *, training: bool) -> Callable[[int, list[Pair]], PairBatch]:
        """How pairs become a batch; validation scores each video with its thought and without in one forward."""
        raise NotImplementedError

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of the gradient of each part that has one, by tag."""
        gradients = {
            part: [parameter.grad for parameter in parameters if parameter.grad is not None]
            for part, parameters in trainable(self.model).items()
        }
        return {f"grad/{part}": torch.nn.utils.get_total_norm(found) for part, found in gradients.items() if found}

    def on_validation_start(self) -> None:
        """Start counting for every validation table."""
        names = self.trainer.datamodule.val_names  # type: ignore[attr-defined]
        self.validation = Validation(self.model, names, self.own_thought_pairs, self.headline)

    def validation_step(self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0) -> Validated:
        """Score pairs with the teacher's thought, without one, and some with the model's own."""
        return self.validation.step(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log what was counted; the headline is that of the first table. What was never counted is nan and left out."""
        for name, value in self.validation.results().items():
            if not math.isnan(value):
                # The same on every rank already; Lightning warns of every value that is not reduced.
                self.log(name, value, prog_bar=name == "val/preference_accuracy", sync_dist=True)

    def configure_optimizers(self) -> Any:
        """One parameter group per part, each with its learning rate."""
        groups = [
            {"params": parameters, "lr": self.learning_rates[part], "name": part}
            for part, parameters in trainable(self.model).items()
        ]
        optimizer = self.optimizer(groups)
        num_steps = self._num_steps()
        scheduler = get_scheduler(
            self.schedule, optimizer, num_warmup_steps=round(self.warmup * num_steps), num_training_steps=num_steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains: a frozen backbone is loaded from where it came from."""
        names = self._trainable_names()
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint holds exactly what trains here, and add what is frozen."""
        found, expected = set(checkpoint["state_dict"]), set(self._trainable_names())
        if found != expected:
            raise ValueError(
                f"the checkpoint does not fit this run: it lacks {sorted(expected - found)[:3]} and has "
                f"{sorted(found - expected)[:3]} beyond it; resume with the configuration it was made with"
            )
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    def _trainable_names(self) -> list[str]:
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def _num_steps(self) -> int:
        """Optimizer steps of the run; reading Lightning's estimate would make it lose the state of the loader."""
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps
        return max(1, (self.trainer.max_epochs or 1) * self._steps_of_epoch())

    def _steps_of_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        return -(-batches // self.trainer.accumulate_grad_batches)
