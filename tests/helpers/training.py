"""Modules outside of a run: a trainer that stands in for Lightning's, so that a hook can be called by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from descore.model.reward_model import RewardModel
from descore.modules.system import RewardSystem
from tests.helpers.examples import make_frames

Log = dict[str, float]
TEMPLATE = "rendered"


def stub_trainer(num_batches: int = 0, *, half_accumulated: bool = False, **values: Any) -> SimpleNamespace:
    """A trainer of one rank that is at step 0 of an epoch of some batches, and skips nothing but what it is told."""
    defaults = {
        "accumulate_grad_batches": 1,
        "callbacks": [],
        "current_epoch": 0,
        "datamodule": SimpleNamespace(batch_size=1, train_dataloader=lambda: range(num_batches)),
        "fit_loop": SimpleNamespace(_should_accumulate=lambda: half_accumulated),
        "_logger_connector": SimpleNamespace(should_update_logs=False),
        "global_rank": 0,
        "global_step": 0,
        "gradient_clip_val": None,
        "is_global_zero": True,
        "limit_train_batches": 1.0,
        "max_epochs": 1,
        "max_steps": -1,
        "precision": "32-true",
        "strategy": SimpleNamespace(reduce=lambda value, reduce_op: value),
        "world_size": 1,
    }
    return SimpleNamespace(**defaults | values)


def attach(module: RewardSystem, model: RewardModel, **trainer: Any) -> Log:
    """Give a module a model and the stand-in of a trainer; return what the module will log."""
    logged: Log = {}

    def log(name: str, value: Tensor | float, **_: object) -> None:
        logged[name] = float(value)

    module.log = log
    module._build = lambda: model
    module.manual_backward = lambda loss: loss.backward()
    module._trainer = stub_trainer(**trainer)
    module.configure_model()
    return logged


def read_by_name(path: str) -> Any:
    """Frames that depend on the path alone, of a size of its own, without a file."""
    number = sum(path.encode())
    return make_frames(2 + number % 2 * 2, 16 + number % 3 * 16, 32, seed=number)
