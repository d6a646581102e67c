"""What trains, and how: parts, rates, adapters, precision and schedule as asked for; and what a checkpoint holds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from descore.modules.cold_start import ColdStartModule
from descore.modules.options import Batching, Lora, Optimization
from descore.modules.rl import RLModule
from tests.helpers.training import TEMPLATE, attach, stub_trainer

RATES = {"language": 1e-4, "vision": 0.0, "query": 1e-3, "head": 1e-2}


def stage1(**optimization) -> ColdStartModule:
    return ColdStartModule(template=TEMPLATE, optimization=Optimization(**{"learning_rates": RATES} | optimization))


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def test_every_part_trains_at_its_own_rate_and_a_part_without_one_not_at_all(build):
    module = stage1(warmup=0.0)
    attach(module, build(), num_batches=8, max_steps=4)
    optimizer = module.configure_optimizers()["optimizer"]
    assert rates(optimizer) == {"language": 1e-4, "query": 1e-3, "head": 1e-2}
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(one) for one in module.model.parameters() if one.requires_grad}


def test_the_rates_rise_over_the_warm_up_and_stay(build):
    """A quarter of 8 steps: 0, 1/2, and the whole of each rate from step 2 on."""
    module = stage1(warmup=0.25)
    attach(module, build(), num_batches=8, max_steps=8)
    configured = module.configure_optimizers()
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    shares = []
    for _ in range(4):
        found = rates(configured["optimizer"])
        shares.append(found["language"] / 1e-4)
        assert found["head"] == pytest.approx(100 * found["language"])
        configured["optimizer"].step()
        scheduler.step()
    assert shares == pytest.approx([0, 0.5, 1, 1])


@pytest.mark.parametrize(("schedule", "at_half"), [("constant_with_warmup", 1.0), ("cosine", 0.5), ("linear", 0.5)])
def test_the_course_after_the_warm_up_is_the_one_that_was_asked_for(build, schedule, at_half):
    module = stage1(warmup=0.0, schedule=schedule)
    attach(module, build(), num_batches=8, max_steps=8)
    configured = module.configure_optimizers()
    for _ in range(4):
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert rates(configured["optimizer"])["head"] == pytest.approx(1e-2 * at_half)


@pytest.mark.parametrize(
    ("trainer", "num_steps"),
    [
        ({"num_batches": 7}, 7),
        ({"num_batches": 7, "accumulate_grad_batches": 3}, 3),  # 3 + 3 + 1 batches
        ({"num_batches": 7, "accumulate_grad_batches": 3, "max_epochs": 4}, 12),
        ({"num_batches": 7, "max_epochs": 4, "max_steps": 5}, 5),
        ({"num_batches": 7, "max_epochs": 2, "max_steps": 1000}, 14),
        ({"num_batches": 7, "max_epochs": -1, "max_steps": 5}, 5),
        ({"num_batches": 7, "limit_train_batches": 3}, 3),
        ({"num_batches": 7, "limit_train_batches": 0.5, "max_epochs": 2}, 6),
        ({"num_batches": 7, "limit_train_batches": 5, "accumulate_grad_batches": 2}, 3),  # 2 + 2 + 1 batches
    ],
)
def test_the_steps_of_a_run_of_stage1(trainer, num_steps):
    module = stage1()
    module._trainer = stub_trainer(**trainer)
    assert module._schedule_steps()[1] == num_steps


class Loader(list[int]):
    """The sizes of the batches of an epoch."""

    def batch_sizes(self) -> list[int]:
        return list(self)


@pytest.mark.parametrize(
    ("batching", "num_steps"),
    [({}, 5), ({"mini_batch_pairs": 3}, 13), ({"update_epochs": 2, "mini_batch_pairs": 4}, 18)],
)
def test_the_steps_of_a_run_of_stage2(batching, num_steps):
    """Four batches of eight pairs and one of two: mini-batches of 3, 3 and 2, or of 4 and 4, gone through twice."""
    module = RLModule("somewhere", batching=Batching(**batching))
    loader = Loader([8, 8, 8, 8, 2])
    data = SimpleNamespace(train_dataloader=lambda: loader)
    module._trainer = stub_trainer(datamodule=data)
    assert module._schedule_steps()[1] == num_steps


def test_an_adapter_has_the_rank_and_the_scale_that_were_asked_for(build):
    """Its output is multiplied by alpha / rank = 6 / 2."""
    module = stage1(lora=Lora(("language",), rank=2, alpha=6))
    attach(module, build())
    named = dict(module.model.named_parameters())
    assert {one.shape[0] for name, one in named.items() if "lora_A" in name} == {2}
    scales = {layer.scaling["default"] for layer in module.model.modules() if hasattr(layer, "lora_A")}
    assert scales == {3.0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_weights_alone_take_the_frozen_precision(build, dtype):
    module = stage1(frozen_dtype=dtype)
    attach(module, build())
    found = {(one.requires_grad, one.dtype) for one in module.model.parameters()}
    assert found == {(True, torch.float32), (False, getattr(torch, dtype))}


def test_the_new_head_is_drawn_from_the_seed_of_the_module(backbones):
    def head(seed: int) -> torch.Tensor:
        module = ColdStartModule(str(backbones["qwen3_vl"]), TEMPLATE, seed=seed)
        return module._build().head.weight

    assert torch.equal(head(3), head(3))
    assert not torch.equal(head(3), head(4))


def test_activations_are_recomputed_where_that_was_asked_for(build):
    for asked in (False, True):
        module = stage1(gradient_checkpointing=asked)
        attach(module, build())
        assert module.model.base.is_gradient_checkpointing == asked


def checkpoint_of(module: ColdStartModule) -> dict:
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def test_a_checkpoint_holds_what_trains_and_nothing_else(build):
    module = stage1()
    attach(module, build())
    trained = {f"model.{name}" for name, one in module.model.named_parameters() if one.requires_grad}
    assert set(checkpoint_of(module)["state_dict"]) == trained


def test_a_resumed_run_counts_the_skipped_steps_in_a_row_on(build):
    first, second = stage1(), stage1()
    attach(first, build())
    first.skipping.num_in_a_row = 3
    attach(second, build())
    second.on_load_checkpoint(checkpoint_of(first))
    assert second.skipping.num_in_a_row == 3


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_says_whether_gradients_were_half_accumulated(build, half):
    module = stage1()
    attach(module, build(), half_accumulated=half)
    assert checkpoint_of(module)["half_accumulated"] is half


def test_a_checkpoint_of_other_parts_is_refused(build):
    first, second = stage1(), stage1(learning_rates={"head": 1e-3})
    attach(first, build())
    attach(second, build())
    with pytest.raises(ValueError, match=r"does not fit this run.* \[\] .* \['model\.network"):
        second.on_load_checkpoint(checkpoint_of(first))
    with pytest.raises(ValueError, match=r"does not fit this run.* \['model\.network.* \[\]"):
        first.on_load_checkpoint(checkpoint_of(second))


def test_the_trainers_own_clipping_is_refused(build):
    module = stage1()
    attach(module, build(), gradient_clip_val=1.0)
    with pytest.raises(ValueError, match=r"gradient_clip_val is 1\.0"):
        module.configure_optimizers()


def test_a_run_in_which_nothing_trains_is_refused():
    with pytest.raises(ValueError, match="no part with a rate above 0"):
        stage1(learning_rates={"head": 0.0})


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_that_decays_needs_an_end(build, schedule):
    module = stage1(schedule=schedule)
    attach(module, build(), num_batches=7, max_epochs=-1)
    with pytest.raises(
        ValueError, match=rf"schedule {schedule} decays .*max_steps -1, trainer.max_epochs -1.* set no end"
    ):
        module.configure_optimizers()


def test_without_an_end_the_warm_up_is_a_share_of_an_epoch():
    module = stage1(warmup=0.5)
    module._trainer = stub_trainer(num_batches=8, max_epochs=-1)
    assert module._schedule_steps() == (4, 8)


def test_a_model_is_made_in_host_memory_whatever_the_default_device(backbones):
    """Lightning makes a GPU the default while a model is made; the device "meta" refuses the same draws."""
    module = ColdStartModule(
        backbone=str(backbones["qwen3_vl"]),
        template=TEMPLATE,
        optimization=Optimization(learning_rates=RATES, lora=Lora(parts=["language"], rank=2, alpha=4)),
    )
    with torch.device("meta"):
        module.configure_model()
    assert {parameter.device.type for parameter in module.model.parameters()} == {"cpu"}
