"""What both stages share: building the model, what trains, the optimizer and its schedule, checkpoints, validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from transformers import get_scheduler

from descore.inputs.collate import Read
from descore.model.reward_model import RewardModel
from descore.model.trainable import Part, check_parts, make_trainable, trainable
from descore.modules.skipping import Skipping
from descore.modules.validation import Reading, Validated, Validation
from descore.objectives.kept_step import KeptStep
from descore.runtime.fsdp1 import FSDP1Strategy
from descore.runtime.sharding import ShardedStrategy, gathered, in_turn, is_sharded, total_norm, trained_state
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
        max_skipped: int,
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
        self.skipping = Skipping(max_skipped)
        self.seed = seed
        self.strict_loading = False  # a checkpoint holds what trains; `on_load_checkpoint` is the one to check it

    def configure_model(self) -> None:
        """Build the model once, and choose what trains."""
        if hasattr(self, "model"):
            return
        with self._sharding() as shard:
            self.model = shard(self._make())

    def whole_model(self) -> RewardModel | None:
        """Return the model as one process holds it: itself, or where it is sharded a copy in host memory.

        Every process has to call it; the copy is on the first one, and None on the others.
        """
        if not is_sharded(self.model):
            return self.model
        state = trained_state(self.model)
        if not self.trainer.is_global_zero:
            return None
        model = self._make()
        model.load_state_dict(state, strict=False)
        return model

    def _make(self) -> RewardModel:
        """Load the model and choose what trains."""
        model = self._build()
        parts = [part for part, rate in self.learning_rates.items() if rate > 0]
        make_trainable(model, parts, lora_parts=self.lora_parts, lora_rank=self.lora_rank, lora_alpha=self.lora_alpha)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self.frozen_dtype)
        if self.gradient_checkpointing:
            model.base.gradient_checkpointing_enable({"use_reentrant": False})
        return model.train()

    @contextmanager
    def _sharding(self) -> Iterator[Callable[[RewardModel], RewardModel]]:
        """Load models within; what it gives spreads one over the processes, if the strategy does that."""
        strategy = self._trainer.strategy if self._trainer is not None else None
        if isinstance(strategy, ShardedStrategy | FSDP1Strategy):
            with in_turn(strategy):
                yield strategy.shard
        elif isinstance(strategy, FSDPStrategy):
            raise ValueError(
                "trainer.strategy is Lightning's own FSDPStrategy, by which shards of one process alone would be "
                "clipped and exported: shard with conf/overlay/fsdp.yaml (FSDP2) or conf/overlay/fsdp1.yaml (FSDP1)"
            )
        else:
            yield lambda model: model

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """How pairs become a batch; validation scores each video with its thought and without in one forward.

        Args:
            training: Whether the batches are trained on.
            read: Reads a video; by default `Processor.read`.
        """
        raise NotImplementedError

    @property
    def logs_this_step(self) -> bool:
        """Whether Lightning will write what this step logs; it repeats old values of what the step does not log."""
        return self.trainer._logger_connector.should_update_logs

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of the gradient of each part that has one, by tag."""
        gradients = {
            part: [parameter.grad for parameter in parameters if parameter.grad is not None]
            for part, parameters in trainable(self.model).items()
        }
        # A process may hold nothing of a part whose norm all of them sum up.
        return {
            f"grad/{part}": total_norm(self.model, found)
            for part, found in gradients.items()
            if found or is_sharded(self.model)
        }

    def on_validation_start(self) -> None:
        """Start counting for every validation table, with all weights at hand: ranks may validate unequal numbers."""
        names = self.trainer.datamodule.val_names  # type: ignore[attr-defined]
        self._validating = ExitStack()
        self._validating.enter_context(gathered(self.model))
        self.validation = Validation(self.model, names, self.own_thought_pairs, self.headline)

    def validation_step(self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0) -> Validated:
        """Score pairs with the teacher's thought, without one, and some with the model's own."""
        return self.validation.step(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log what was counted; the headline is that of the first table. What was never counted is nan and left out."""
        self._validating.close()
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
        """Keep only what trains: a frozen backbone is loaded from where it came from.

        Options stay in config.yaml: LightningCLI would put those of a checkpoint in the place of what the command line
        says.
        """
        for key in ("hyper_parameters", "hparams_name"):
            checkpoint.pop(key, None)
        names, state = set(self._trainable_names()), checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in names}
        checkpoint["num_skipped_in_a_row"] = self.skipping.num_in_a_row
        checkpoint["half_accumulated"] = self.trainer.fit_loop._should_accumulate()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint holds exactly what trains here; what is frozen is there already."""
        self.skipping.num_in_a_row = checkpoint["num_skipped_in_a_row"]
        if is_sharded(self.model):
            return  # the strategy has loaded and checked it
        found, expected = set(checkpoint["state_dict"]), set(self._trainable_names())
        if found != expected:
            raise ValueError(
                f"the checkpoint does not fit this run: it lacks {sorted(expected - found)[:3]} and has "
                f"{sorted(found - expected)[:3]} beyond it; resume with the configuration it was made with"
            )

    def _trainable_names(self) -> list[str]:
        return [f"model.{name}" for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def skips(self, loss: Tensor, norm: Tensor, describe: Callable[[], KeptStep]) -> bool:
        """Say whether a step is not to be taken, since its loss or its gradient is not finite; see `Skipping`."""
        return self.skipping(self.trainer, self._mean_over_ranks(loss), norm, self.whole_model, describe)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        return self._over_ranks(value, "mean")

    def _over_ranks(self, value: Tensor, operation: Literal["mean", "max"]) -> Tensor:
        reduced: Tensor = self.trainer.strategy.reduce(value, reduce_op=operation)
        return reduced

    def _num_steps(self) -> int:
        """Optimizer steps of the run; reading Lightning's estimate would make it lose the state of the loader."""
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps
        return max(1, (self.trainer.max_epochs or 1) * self._steps_of_epoch())

    def _steps_of_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        return -(-batches // self.trainer.accumulate_grad_batches)
