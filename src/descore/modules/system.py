"""What both stages share: the model and its parts that train, the optimizer, checkpoints, validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from transformers import get_scheduler

from descore.inputs.collate import Read
from descore.model.reward_model import RewardModel
from descore.model.trainable import check_parts, make_trainable, trainable
from descore.modules.horizon import count_steps, describe_limits, limit_batches
from descore.modules.options import Optimization
from descore.modules.readings import GivenReader, HeadReader, Reading
from descore.modules.skipping import Skipping
from descore.modules.validation import Validated, Validation
from descore.objectives.kept_step import KeptStep
from descore.runtime.sharding import Sharding, loading
from descore.types import Pair, PairBatch

HEADLINE = "val/preference_accuracy"
"""Accuracy on the first validation table with the model's own thoughts, as users score."""


class RewardSystem(LightningModule):
    """A reward model in training; the stages derive from it and add their objectives.

    Args:
        build: Loads the model.
        optimization: What trains, and how.
        own_thought_pairs: Validation pairs per table and rank for which the model writes its own thoughts.

    Raises:
        ValueError: If the parts cannot train as asked for.
    """

    model: RewardModel
    sharding: Sharding
    headline: Reading = "own_thought"
    """The reading of the validation pairs that gives the headline."""
    num_steps: int | None = None
    """Number of optimizer steps of the run, once it has begun; None if nothing but time limits it."""

    def __init__(self, build: Callable[[], RewardModel], *, optimization: Optimization, own_thought_pairs: int) -> None:
        super().__init__()
        lora = optimization.lora
        check_parts(list(optimization.learning_rates), lora.parts, lora.rank, lora.alpha)
        if not optimization.parts:
            raise ValueError("optimization.learning_rates has no part with a rate above 0; expected one that trains")
        self._build = build
        self.optimization = optimization
        self.own_thought_pairs = own_thought_pairs
        self.skipping = Skipping(optimization.max_skipped)
        self.strict_loading = False  # a checkpoint holds what trains; `on_load_checkpoint` is the one to check it

    def configure_model(self) -> None:
        """Build the model once, choose what trains, and lay it out on the ranks."""
        if hasattr(self, "model"):
            return
        self._check_precision()
        with loading(self._trainer.strategy if self._trainer is not None else None) as lay_out:
            self.sharding = lay_out(self._make())
        self.model = self.sharding.model
        self._tell_what_trains()

    def _tell_what_trains(self) -> None:
        """Say which parts train; the sizes of a sharded model are those of this rank."""
        counts = {part: sum(one.numel() for one in found) for part, found in trainable(self.model).items()}
        parts = ", ".join(
            f"{part} {count:,}{' (LoRA)' * (part in self.optimization.lora.parts)}" for part, count in counts.items()
        )
        total = sum(one.numel() for one in self.model.parameters())
        rank_zero_info(f"Training {sum(counts.values()):,} of {total:,} parameters: {parts}")
        if self.headline != "own_thought":
            reading = self.headline.replace("_", " ").replace("teacher thought", "the teacher's thoughts")
            rank_zero_info(f"Validation writes no thoughts of the model's own: the headline is accuracy with {reading}")

    def _check_precision(self) -> None:
        precision = str(self._trainer.precision) if self._trainer is not None else "32-true"
        if precision in {"bf16-true", "16-true"}:
            raise ValueError(
                f"trainer.precision is {precision}; expected 32-true or bf16-mixed: weights in 16 bits do not move at "
                "the learning rates of fine-tuning"
            )

    def full_model(self) -> RewardModel | None:
        """Return the model with its full weights: itself, or a copy in host memory where it is sharded.

        Every rank calls it; the copy is on rank 0, and None on the others.
        """
        if not self.sharding.is_sharded:
            return self.model
        state = self.sharding.trained_state()
        if not self.trainer.is_global_zero:
            return None
        model = self._make()
        model.load_state_dict(state, strict=False)
        return model

    def _make(self) -> RewardModel:
        """Load the model in host memory and choose what trains; the strategy moves it to its device."""
        lora, parts = self.optimization.lora, self.optimization.parts
        with torch.device("cpu"):  # Lightning makes a GPU the default, where the seeded draws could not be made
            model = self._build()
            make_trainable(model, parts, lora_parts=lora.parts, lora_rank=lora.rank, lora_alpha=lora.alpha)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self._frozen_dtype)
        if self.optimization.gradient_checkpointing:
            model.base.gradient_checkpointing_enable({"use_reentrant": False})
        return model.train()

    @property
    def _frozen_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.optimization.frozen_dtype)
        return dtype

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """Return what turns pairs into a batch; validation scores each video with its thought and without.

        Args:
            training: Whether the batches are trained on.
            read: Reads a video; `Processor.read` if not given.
        """
        raise NotImplementedError

    def given_reader(self) -> GivenReader:
        """Return what reads the rewards that need no thought of the model's own."""
        return HeadReader(needs_thoughts=self.headline != "teacher_thought")

    @property
    def logs_this_step(self) -> bool:
        """Whether Lightning will write what this step logs; it repeats old values of what the step does not log."""
        return self.trainer._logger_connector.should_update_logs

    def gradient_norms(self) -> dict[str, Tensor]:
        """Return the gradient norm of each part that has a gradient, by tag."""
        gradients = {
            part: [parameter.grad for parameter in parameters if parameter.grad is not None]
            for part, parameters in trainable(self.model).items()
        }
        # A rank may hold nothing of a part whose norm is over all ranks.
        return {
            f"grad/{part}": self.sharding.total_norm(found)
            for part, found in gradients.items()
            if found or self.sharding.is_sharded
        }

    def on_validation_start(self) -> None:
        """Reset the counters and gather the weights: ranks may see different numbers of batches."""
        names = self.trainer.datamodule.val_names  # type: ignore[attr-defined]
        self._validating = ExitStack()
        self._validating.enter_context(self.sharding.gathered())
        self.validation = Validation(self.model, names, self.own_thought_pairs, self.headline, self.given_reader())

    def validation_step(self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0) -> Validated:
        """Score pairs with the teacher's thought, without one, and some with the model's own."""
        return self.validation.step(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the counters; the headline is that of the first table, nan where no decided pair has two rewards.

        Any other value that was never counted is left out.
        """
        self._validating.close()
        for name, value in self.validation.results().items():
            if name == HEADLINE or not math.isnan(value):
                # The same on every rank already; Lightning warns of every value that is not reduced.
                self.log(name, value, prog_bar=name == HEADLINE, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """One parameter group per part, each with its learning rate.

        Raises:
            ValueError: If the trainer is asked to clip: both stages clip by `optimization.gradient_clip`.
        """
        if self.trainer.gradient_clip_val:
            raise ValueError(
                f"trainer.gradient_clip_val is {self.trainer.gradient_clip_val}; expected none: both stages clip by "
                "model.optimization.gradient_clip"
            )
        groups = [
            {"params": parameters, "lr": self.optimization.learning_rates[part], "name": part}
            for part, parameters in trainable(self.model).items()
        ]
        optimizer = self.optimization.optimizer(groups)
        warmup, num_steps = self._schedule_steps()
        scheduler = get_scheduler(
            self.optimization.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _schedule_steps(self) -> tuple[int, int]:
        """Return the steps of the warm-up, and those of the run; without an end, the warm-up is a share of an epoch.

        Raises:
            ValueError: If the schedule decays and nothing says when the run ends.
        """
        trainer, schedule = self.trainer, self.optimization.schedule
        num_batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        steps = self._steps_of_batches(limit_batches(num_batches, trainer.limit_train_batches))
        num_steps = self.num_steps = count_steps(steps, trainer.max_steps, trainer.max_epochs)
        if schedule != "constant_with_warmup":
            if num_steps is None:
                raise ValueError(
                    f"optimization.schedule {schedule} decays to the end of the run, and {describe_limits(trainer)} "
                    "set no end: give --trainer.max_steps or --trainer.max_epochs, or choose "
                    "--model.optimization.schedule constant_with_warmup"
                )
            if any(isinstance(callback, Timer) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                rank_zero_warn(f"trainer.max_time may end the run before the {num_steps} steps of its schedule")
        share = sum(steps) if num_steps is None else num_steps
        return round(self.optimization.warmup * share), max(share, 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the weights that train: a frozen backbone is loaded from where it came from."""
        names, state = set(self._trainable_names()), checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in names}
        checkpoint["num_skipped_in_a_row"] = self.skipping.num_in_a_row
        checkpoint["half_accumulated"] = self.trainer.fit_loop._should_accumulate()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint holds exactly the weights that train here."""
        self.skipping.num_in_a_row = checkpoint["num_skipped_in_a_row"]
        if self.sharding.is_sharded:
            return  # the strategy has loaded and checked it
        found, expected = set(checkpoint["state_dict"]), set(self._trainable_names())
        if found != expected:
            raise ValueError(
                f"the checkpoint does not fit this run: it lacks {sorted(expected - found)[:3]} and has "
                f"{sorted(found - expected)[:3]} beyond it; resume with the configuration it was made with"
            )

    def skips(self, loss: Tensor, norm: Tensor, describe: Callable[[], KeptStep]) -> bool:
        """Return whether a step must be skipped, because its loss or gradient is not finite; see `Skipping`."""
        return self.skipping(self.trainer, self.mean_over_ranks(loss), norm, self.full_model, describe)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Average a tensor over the ranks of the run; every rank calls it."""
        return self._over_ranks(value, "mean")

    def max_over_ranks(self, value: Tensor) -> Tensor:
        """Return the maximum of a tensor over the ranks of the run; every rank calls it."""
        return self._over_ranks(value, "max")

    def _over_ranks(self, value: Tensor, operation: Literal["mean", "max"]) -> Tensor:
        reduced: Tensor = self.trainer.strategy.reduce(value, reduce_op=operation)
        return reduced

    def _trainable_names(self) -> list[str]:
        return [f"model.{name}" for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def _steps_of_batches(self, num_batches: int) -> list[int]:
        """Return the number of optimizer steps that each batch of an epoch takes.

        Lightning's own estimate is not read: that would make Lightning lose the state of the loader.
        """
        size = self.trainer.accumulate_grad_batches
        return [int(number % size == 0 or number == num_batches) for number in range(1, num_batches + 1)]
