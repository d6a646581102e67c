"""A callback that finds weights which a process of a run under FSDP1 holds though they are not in its share."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from descore.runtime.fsdp1_unit import Unit


class HoldsItsShare(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        model: Any = pl_module.model
        held = sum(parameter.numel() for parameter in model.parameters())
        whole = sum(shape.numel() for shape in model.shapes.values())
        assert held < 1.02 * whole / trainer.world_size
        for unit in Unit.fsdp_modules(model):
            assert unit._handle.flat_param._full_param_padded.untyped_storage().size() == 0
